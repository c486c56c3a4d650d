"""The index of a large gallery. Most of these tests need faiss, which the workbook does without."""

import importlib.util

import numpy as np
import pytest
from gallery_helpers import edit, sha256, stopped

from workbook.__main__ import main
from workbook.gallery import index as index_module
from workbook.gallery.gallery import Gallery

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None,
    reason="faiss is not installed; an index of a large gallery needs it: pip install faiss-cpu",
)


def draw(count, seed=0):
    """Embeddings (count, 8) in 100 classes, and their labels."""
    rng = np.random.default_rng(seed)
    centres, classes = np.random.default_rng(99).normal(size=(100, 8)), rng.integers(0, 100, count)
    return np.float32(centres[classes] + 0.3 * rng.normal(size=(count, 8))), classes.astype(str)


@pytest.fixture
def large(model, tmp_path):
    """A gallery of 3,000 entries, saved in tmp_path / "g"."""
    filled = Gallery(model)
    filled.add_embeddings(*draw(3000), [f"{i}" for i in range(3000)])
    filled.threshold = 0.5
    filled.save(tmp_path / "g")
    return filled


@pytest.fixture
def indexed(large, tmp_path):
    large.build_index()
    return Gallery.load(tmp_path / "g")


def search_all_lists(gallery):
    gallery.index._index.nprobe = gallery.index._index.nlist


def count_exact(monkeypatch, gallery):
    """A list with the number of queries of each search among all entries."""
    calls = []
    search = type(gallery.entries).search

    def counted(self, queries, *arguments):
        calls.append(len(queries))
        return search(self, queries, *arguments)

    monkeypatch.setattr(type(gallery.entries), "search", counted)
    return calls


@needs_faiss
def test_in_all_lists_the_index_finds_what_the_exact_search_finds(indexed, monkeypatch):
    queries, _ = draw(200, seed=1)
    expected = indexed.entries.search(queries, 5)
    search_all_lists(indexed)
    calls = count_exact(monkeypatch, indexed)
    distances, places = indexed._find_nearest(queries, 5)
    np.testing.assert_array_equal(places[:, :5], expected[1])
    np.testing.assert_allclose(distances[:, :5], expected[0], rtol=1e-12)
    assert (np.diff(distances) >= 0).all(), "the other candidates follow in their order"
    assert not calls, "the entries were not all compared"


@needs_faiss
def test_the_recall_that_is_shown_is_that_of_other_queries(large):
    measured = large.build_index()
    queries, _ = draw(1000, seed=2)
    distances, _ = large.index.search(large.entries, queries, 1)
    exact, _ = large.entries.search(queries, 1)
    recall = (distances[:, :1] <= exact * (1 + 1e-9)).mean()
    assert measured["recall_at_1"] >= 0.98 and recall == pytest.approx(
        measured["recall_at_1"], abs=0.02
    )
    assert large.index.lists[0] < large.index.lists[1], "not all lists are needed"


@needs_faiss
def test_what_is_added_or_removed_counts_at_once_and_after_a_save(indexed, tmp_path):
    index_file = edit(tmp_path / "g")["index"]["file"]
    embeddings, _ = draw(50, seed=3)
    embeddings += np.float32([9, 0, 0, 0, 0, 0, 0, 0])  # far from all others
    search_all_lists(indexed)
    for state in ("in memory", "saved", "loaded"):
        if state == "in memory":
            indexed.add_embeddings(embeddings, ["new"] * 50)
            place = indexed.entries.search(embeddings[:1] * 0, 1)[1][0, 0]
            path = indexed.paths[place]
            indexed.remove(path=path)
        elif state == "saved":
            indexed.save(tmp_path / "g")
        else:
            indexed = Gallery.load(tmp_path / "g")
            search_all_lists(indexed)
        assert {indexed.identify_embedding(one).label for one in embeddings} == {"new"}
        nearest = indexed.identify_embedding(embeddings[0] * 0).nearest
        assert path not in [entry for _, _, entry in nearest]
        queries, _ = draw(100, seed=4)
        found, expected = indexed._find_nearest(queries, 5), indexed.entries.search(queries, 5)
        np.testing.assert_array_equal(found[1][:, :5], expected[1])
        assert indexed.index and edit(tmp_path / "g")["index"]["file"] == index_file


@needs_faiss
def test_where_all_candidates_were_removed_all_entries_are_compared(indexed):
    gallery, (queries, _) = indexed, draw(1, seed=5)
    search_all_lists(gallery)
    places = gallery.entries.search(queries, 300)[1][0]
    mask = np.ones(3000, bool)
    mask[places] = False  # as many as there are candidates, and more
    gallery._set_entries(gallery.entries.select(mask))
    found, expected = gallery._find_nearest(queries, 5), gallery.entries.search(queries, 5)
    np.testing.assert_array_equal(found[1][:, :5], expected[1])
    assert gallery.index is not None


@needs_faiss
def test_the_nearest_of_another_label_is_found_behind_many_of_one(model, tmp_path, monkeypatch):
    """Of a class of 2,500, all candidates have its label; then more are asked for, and all."""
    gallery = Gallery(model)
    crowd = np.float32(np.random.default_rng(0).normal(size=(2500, 8)))
    others = np.float32(10 + np.random.default_rng(1).normal(size=(600, 8)))
    gallery.add_embeddings(np.concatenate([crowd, others]), ["a"] * 2500 + ["b"] * 600)
    gallery.fit_threshold()
    gallery.save(tmp_path / "g")
    plain = gallery.identify_embedding(crowd[0] + 0.1)
    gallery.build_index()
    search_all_lists(gallery)
    match = gallery.identify_embedding(crowd[0] + 0.1)
    assert match.probability == pytest.approx(plain.probability) and match.label == "a"
    assert match.nearest == plain.nearest


@needs_faiss
def test_an_index_that_lacks_too_many_entries_is_not_used_and_that_is_said(
    indexed, tmp_path, capsys
):
    indexed.add_embeddings(*draw(200, seed=6))
    queries, _ = draw(20, seed=7)
    found = indexed.identify_embeddings(queries)
    out = capsys.readouterr().out
    assert "200 of 3,200 entries were added after the index was built" in out
    assert indexed.index is None
    indexed.save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g")
    assert again.identify_embeddings(queries) == found
    main(["index", str(tmp_path / "g")])
    assert "index of 3,200 entries, built in " in capsys.readouterr().out
    assert Gallery.load(tmp_path / "g").index.covered == 3200


@needs_faiss
def test_a_gallery_that_is_written_anew_loses_its_index(indexed, tmp_path, capsys):
    for label in map(str, range(30)):
        indexed.remove(label=label)
    indexed.save(tmp_path / "g")
    assert "was written anew, without an index" in capsys.readouterr().out
    assert edit(tmp_path / "g")["index"] is None and not list((tmp_path / "g").glob("index-*"))
    assert Gallery.load(tmp_path / "g").index is None


@needs_faiss
@pytest.mark.parametrize("change", ["other bytes", "missing", "of other embeddings", "no index"])
def test_a_broken_index_is_not_used_and_that_is_said(indexed, tmp_path, capsys, change):
    folder = tmp_path / "g"
    path = folder / edit(folder)["index"]["file"]
    says = f"{path.name} was changed"
    if change == "other bytes":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif change == "missing":
        path.unlink()
        says = f"{path.name} is missing"
    else:
        import faiss

        if change == "no index":
            path.write_bytes(b"no index")
            says = f"{path.name} cannot be read"
        else:
            faiss.write_index(faiss.IndexFlatL2(4), str(path))
            says = f"{path.name} is an index of other entries"
        edit(folder, index=edit(folder)["index"] | {"sha256": sha256(path)})
    gallery = Gallery.load(folder)
    queries, _ = draw(3)
    match = gallery.identify_embeddings(queries)
    out = capsys.readouterr().out
    assert out.count("the index is not used") == 1 and says in out
    assert [one.distance for one in match] == list(gallery.entries.search(queries, 1)[0][:, 0])


@needs_faiss
def test_an_index_of_entries_that_are_not_saved_is_refused(large):
    large.remove(path="0")
    with pytest.raises(ValueError, match="save the gallery before its index is built"):
        large.build_index()


def test_a_small_gallery_needs_no_index(saved, monkeypatch):
    monkeypatch.setattr(index_module, "is_installed", lambda: False)  # it is not asked for
    assert "has 6 entries, and an index needs 1,000" in stopped("index", saved)


def test_without_faiss_the_package_is_named(large, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(index_module, "is_installed", lambda: False)
    message = "an index needs the package faiss: pip install faiss-cpu"
    assert message in stopped("index", tmp_path / "g")
    edit(tmp_path / "g", index={"file": f"index-{'0' * 16}.faiss", "sha256": "0" * 64,
                                "parts": 1, "recall_at_1": 1.0})  # fmt: skip
    (tmp_path / "g" / f"index-{'0' * 16}.faiss").write_bytes(b"")
    gallery = Gallery.load(tmp_path / "g")
    assert gallery.index is None
    assert "the index is not used" in capsys.readouterr().out


def test_a_large_gallery_is_told_of_an_index(large, tmp_path, folder, monkeypatch, capsys):
    from workbook.commands import gallery as commands

    monkeypatch.setattr(commands, "PAYS_FROM", 3000)
    main(["identify", str(tmp_path / "g"), str(next(folder.rglob("*.png")))])
    assert "all 3,000 entries were compared; an index is built by" in capsys.readouterr().out
