"""The probability that a name is right, and thresholds by another policy: from stored trials."""

import csv
import re

import gallery_helpers
import numpy as np
import pytest
from gallery_helpers import line, line_gallery, stopped
from scipy.optimize import minimize

from workbook.__main__ import main
from workbook.gallery.calibration import fit_calibrator, relative_margins
from workbook.gallery.gallery import Gallery


def answers(n, seed=0):
    """Margins that are themselves the probability to be right, and whether the name was right."""
    rng = np.random.default_rng(seed)
    margins = rng.uniform(size=n)
    return margins, rng.uniform(size=n) < margins


def test_below_200_images_two_numbers_are_fitted_as_platt_wrote_them():
    margins, right = answers(199)
    positive, negative = right.sum(), (~right).sum()
    targets = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(numbers):
        score = numbers[0] * margins + numbers[1]
        return np.sum(np.logaddexp(0, score) - targets * score)

    slope, intercept = minimize(loss, [0, 0], tol=1e-10).x
    expected = 1 / (1 + np.exp(-slope * margins - intercept))
    np.testing.assert_allclose(fit_calibrator(margins, right)(margins), expected, atol=1e-3)


def test_from_200_images_on_the_curve_is_fitted_and_never_falls():
    margins, right = answers(3000)
    asked = np.linspace(0, 1, 101)
    found = fit_calibrator(margins, right)(asked)
    assert (np.diff(found) >= 0).all() and len(np.unique(found)) > 10
    assert np.abs(found - asked).mean() < 0.05
    assert found.min() > 0 and found.max() < 1, "nothing is certain"
    for n in (199, 200):  # no logistic function has two steps
        margins = np.linspace(0, 1, n)
        steps = fit_calibrator(margins, margins > 0.5)(np.array([0.6, 0.7, 0.8, 0.9]))
        assert (len(np.unique(steps)) == 1) == (n == 200)


@pytest.mark.parametrize("n", [50, 300])
def test_where_all_answers_were_right_none_is_certain(n):
    found = fit_calibrator(answers(n)[0], np.ones(n, bool))(np.array([0.1, 0.9]))
    np.testing.assert_allclose(found, (n + 1) / (n + 2), atol=1e-3)


def test_below_50_images_there_is_no_probability_and_the_reason_is_given():
    with pytest.raises(ValueError, match=r"it needs 50 known images .* there were 49"):
        fit_calibrator(*answers(49))


def test_a_margin_compares_the_two_nearest_labels():
    margins = relative_margins(np.array([1, 0, 0, 2, np.inf]), np.array([4, 4, 0, np.inf, np.inf]))
    assert margins.tolist() == [0.75, 1, 0, 1, 0]


def overlapping(model, seed, count=60, entries=60):
    """A gallery of two classes whose images overlap; embeddings and labels of `count` others."""
    rng = np.random.default_rng(seed)

    def draw(n):
        return rng.normal(np.repeat([0, 2], n // 2)), np.repeat(["a", "b"], n // 2)

    gallery = line_gallery(model, *draw(entries))
    values, labels = draw(count)
    queries = line(model, values)
    queries[:, 1] = 0.1  # beside the line of the entries: none is a copy
    return gallery, (queries, labels)


def test_identify_gives_the_probability_of_the_margin(model, tmp_path):
    gallery, (queries, labels) = overlapping(model, 0)
    assert gallery.identify_embedding(line(model, [1])[0]).probability is None
    gallery.fit_threshold(queries, labels)
    gallery.save(tmp_path)
    margins, right = [], []
    for query, label in zip(queries, labels):
        squares = ((gallery.embeddings - query) ** 2).sum(axis=1)
        d = {name: squares[gallery.labels == name].min() for name in "ab"}
        margins.append(1 - min(d.values()) / max(d.values()))
        right.append(min(d, key=d.get) == label)
    expected = fit_calibrator(np.array(margins), np.array(right))
    for one in (gallery, Gallery.load(tmp_path)):
        for i in (0, 20, 59):
            match = one.identify_embedding(queries[i])
            assert match.probability == pytest.approx(expected(margins[i : i + 1])[0], abs=1e-3)
    assert 0.5 < np.mean(right) < 0.95, "some are wrong, or nothing was calibrated"


def test_probabilities_are_those_of_fresh_images(model):
    gallery, (queries, labels) = overlapping(model, 1, count=1000)
    gallery.fit_threshold(queries, labels)
    fresh, names = overlapping(model, 1, count=5000)[1]
    comparison = gallery.compare(fresh, names)
    found = gallery.estimate_probabilities(comparison.margins)
    assert found.mean() == pytest.approx(comparison.is_right.mean(), abs=0.04)
    sure, unsure = found > np.quantile(found, 0.8), found < np.quantile(found, 0.2)
    for rows in (sure, unsure):
        assert found[rows].mean() == pytest.approx(comparison.is_right[rows].mean(), abs=0.08)
    assert comparison.is_right[sure].mean() > comparison.is_right[unsure].mean() + 0.2


def test_trials_of_entries_are_measured_again_and_those_of_others_called_outdated(model):
    gallery, (queries, labels) = overlapping(model, 2)
    gallery.fit_threshold()
    threshold = gallery.threshold
    assert "Platt scaling on 60 known images (entries, leave-one-out)" in (
        gallery.describe_probability()
    )
    gallery.add_embeddings(queries, labels)
    assert gallery.describe_probability().endswith("before entries were added or removed")
    gallery.measure_entries_again()
    assert gallery.threshold == threshold and gallery.trials.are_current
    again = Gallery(model)
    again.add_embeddings(gallery.embeddings, gallery.labels)
    again.fit_threshold()
    np.testing.assert_array_equal(gallery.trials.known_margins, again.trials.known_margins)
    held_out = line_gallery(model, [0, 2], ["a", "b"])
    held_out.fit_threshold(queries, labels)
    held_out.remove(label="b")
    held_out.measure_entries_again()
    assert len(held_out.trials.known_right) == 60 and not held_out.trials.are_current


@pytest.mark.parametrize("share", [0, 0.05, 0.29])
def test_a_policy_by_false_rejects_refuses_no_more_and_lets_in_no_more_than_it_must(model, share):
    gallery, (queries, labels) = overlapping(model, 3, count=100)
    gallery.fit_threshold(queries, labels)
    distances = gallery.trials.known_distances
    policy = gallery.choose_threshold(known_refused=share)
    assert gallery.threshold == policy["threshold"]
    assert (distances > gallery.threshold).sum() == round(share * 100)
    assert policy["known_refused"] <= share < policy["known_refused"] + 0.01
    low, high = policy["known_refused_95"]
    assert low <= policy["known_refused"] <= high
    assert f"at most {share:.0%} of known images refused" in gallery.describe_threshold()
    with pytest.raises(ValueError, match="known_refused=1: give a share from 0 to below 1"):
        gallery.choose_threshold(known_refused=1)


# ---------------------------------------------------------------------------- the command line


@pytest.fixture
def large(model, tmp_path):
    """The folder of a gallery of two classes of 30 images, and an image that it has not."""
    gallery = Gallery(model)
    for seed, (name, color) in enumerate({"red": (230, 20, 20), "blue": (20, 20, 230)}.items()):
        gallery.add(gallery_helpers.draw(tmp_path / name, color, 30, seed), [name] * 30)
    gallery.fit_threshold()
    gallery.save(tmp_path / "large")
    return tmp_path / "large", gallery_helpers.draw(tmp_path, (230, 20, 20), 1, 9)[0]


def asked(capsys, *words):
    capsys.readouterr()
    main(["identify", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def test_the_probability_is_printed_and_in_the_table(large, tmp_path, capsys):
    folder, image = large
    said = asked(capsys, folder, image)
    match = Gallery.load(folder).identify(image)
    assert f", probability {match.probability:.1%})" in said[0] and match.probability > 0.5
    assert "Platt scaling on 60 known images (entries, leave-one-out)" in said[-1]
    main(["identify", str(folder), str(image), "--csv", str(tmp_path / "t.csv")])
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["probability"] == f"{match.probability:.4f}"


def test_a_table_of_an_earlier_version_is_replaced(large, tmp_path):
    (tmp_path / "t.csv").write_text('"path","label","distance","nearest","entry","error"\nrow\n')
    main(["identify", str(large[0]), str(large[1]), "--csv", str(tmp_path / "t.csv")])
    assert "probability" in (tmp_path / "t.csv").read_text("utf-8")


def test_the_reader_decides_where_unknown_begins(large, capsys):
    folder, image = large
    gallery = Gallery.load(folder)
    distance = gallery.identify(image).distance
    for limit, unknown in ((distance * 0.99, True), (distance * 1.01, False)):
        said = asked(capsys, folder, image, "--threshold", limit)
        assert said[0].startswith(f"{image}: {'unknown' if unknown else 'red'} (")
        assert f"threshold {limit:.3f}, set by hand" in said[-2]
    gallery.threshold = 0.0
    gallery.save(folder)
    assert ": unknown (" in asked(capsys, folder, image)[0]
    assert ": red (" in asked(capsys, folder, image, "--accept-all")[0]
    for word, key in (("accepts", "strangers_let_in"), ("rejects", "known_refused")):
        said = asked(capsys, folder, image, f"--max-false-{word}", "0.1")
        policy = gallery.choose_threshold(**{key: 0.1})
        assert f"threshold {policy['threshold']:.3f} (at most 10% of " in said[-2]
    assert Gallery.load(folder).threshold == 0, "for this call only"


@pytest.mark.parametrize(
    "words, says",
    [
        (["--threshold", "-1"], "--threshold -1.0: give a distance of 0 or more"),
        (["--threshold", "nan"], "--threshold nan: give a distance of 0 or more"),
        (["--max-false-accepts", "5"], "--max-false-accepts 5.0: give a share from 0 to below 1"),
        (
            ["--max-false-rejects", "-0.1"],
            "--max-false-rejects -0.1: give a share from 0 to below 1",
        ),
    ],
)
def test_a_limit_that_is_none_is_refused(large, words, says):
    assert says in stopped("identify", *large, *words)


def test_a_gallery_without_trials_says_so(model, large, capsys):
    gallery = line_gallery(model, [0, 1], ["a", "b"])
    gallery.save(large[0])
    end = stopped("identify", *large, "--max-false-rejects", "0.05")
    assert re.fullmatch("error: no threshold can be chosen: this gallery holds no .*again", end)
    assert asked(capsys, *large)[-1].startswith("no probability: this gallery holds no measured")
    with pytest.raises(ValueError, match="no probability: this gallery holds no measured"):
        gallery.estimate_probabilities(np.ones(1))


def test_a_changed_gallery_says_what_still_holds(large, tmp_path, capsys):
    folder, image = large
    before = Gallery.load(folder).threshold
    main(["enroll", str(folder), "red", str(image)])
    said = capsys.readouterr().out
    assert f"the threshold stays {before:.3f}; strangers let in" in said
    assert "on 61 known images (entries, leave-one-out)\n" in said
    assert Gallery.load(folder).threshold == before


def test_a_test_folder_of_50_images_is_what_the_threshold_rests_on(model, tmp_path, capsys):
    model.save(tmp_path / "embedding.keras")
    colors = {"red": (230, 20, 20), "blue": (20, 20, 230)}
    for seed, (name, color) in enumerate(colors.items()):
        gallery_helpers.draw(tmp_path / "images/train" / name, color, 6, seed)
        gallery_helpers.draw(tmp_path / "images/test" / name, color, 25, 10 + seed)
    words = ["build", tmp_path / "embedding.keras", tmp_path / "images", tmp_path / "g"]
    main(list(map(str, words)))
    gallery = Gallery.load(tmp_path / "g")
    assert gallery.policy["known"] == 50 and gallery.policy["known_held_out"]
    assert "Platt scaling on 50 known images (held out)" in capsys.readouterr().out
    assert len(gallery.labels) == 62, "and all images are entries"
    before = Gallery(model)
    for name in colors:
        paths = sorted((tmp_path / "images/train" / name).iterdir())
        before.add(paths, [name] * 6)
    paths = sorted((tmp_path / "images/test").glob("*/*"))
    asked, _ = before.embed_images(paths)
    distances = before.compare(asked, [path.parent.name for path in paths]).distances
    np.testing.assert_allclose(
        np.sort(gallery.trials.known_distances), np.sort(distances), rtol=1e-3
    )
    next(iter((tmp_path / "images/test/red").iterdir())).unlink()
    main(list(map(str, words)))
    assert not Gallery.load(tmp_path / "g").policy["known_held_out"], "49 are too few"


def test_a_split_that_was_only_drawn_chooses_nothing(model, tmp_path):
    model.save(tmp_path / "embedding.keras")
    for seed, (name, color) in enumerate({"red": (230, 20, 20), "blue": (20, 20, 230)}.items()):
        gallery_helpers.draw(tmp_path / "images" / name, color, 170, seed)
    main(["build", *map(str, [tmp_path / "embedding.keras", tmp_path / "images", tmp_path / "g"])])
    policy = Gallery.load(tmp_path / "g").policy
    assert policy["known"] == 340 and not policy["known_held_out"]
