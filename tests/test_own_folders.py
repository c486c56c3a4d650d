"""The folders that `tools/own_folders.py` draws: new images are new, and a second draw is alike."""

import pytest
from PIL import Image

from tools.own_folders import FRESH, describe, describe_promises, draw_folder


@pytest.fixture
def pool(tmp_path):
    """Four classes with 40 images each, one of them with new images of its own; one has too few."""
    pool = {}
    for number, (name, count) in enumerate([("a", 40), ("b", 40), ("c", 40), ("few", 6)]):
        paths = []
        for i in range(count):
            paths.append(tmp_path / f"{name}-{i}.png")
            Image.new("RGB", (2, 2), (number, i, 0)).save(paths[-1])
        own, new = paths, None
        if name == "c":
            own, new = paths[:20], paths[20:]
        pool[name] = list(map(str, own)), new and list(map(str, new))
    return pool


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))


def test_new_images_are_none_of_the_folders_own(pool, tmp_path):
    draw_folder(pool, tmp_path / "drawn", 3, 10)
    own, new = names(tmp_path / "drawn/own"), names(tmp_path / "drawn/new")
    assert len(own) == 3 * 10 and len(new) == 3 * FRESH and not set(own) & set(new)
    assert {name.split("/")[0] for name in own} == {"a", "b", "c"}
    separate = {f"c/c-{i}.png" for i in range(20, 40)}
    assert separate == {name for name in new if name.startswith("c/")}


def test_strangers_are_of_other_classes(pool, tmp_path):
    draw_folder(pool, tmp_path / "drawn", 2, 10)
    own, strangers = ({n.split("/")[0] for n in names(tmp_path / "drawn" / kind)}
                      for kind in ("own", "strangers"))  # fmt: skip
    assert own | strangers == {"a", "b", "c"} and len(own) == 2
    assert len(names(tmp_path / "drawn/strangers")) == FRESH


def test_a_promise_is_kept_where_the_seen_share_lies_in_its_interval():
    promise = {"promised": 0.05, "95%": [0.01, 0.1], "seen": 0.08}
    rows = {
        "toys 12 x 5": {"promises": {"false accepts": promise}},
        "toys 5 x 10": {"promises": {}},
    }
    rows["toys 20 x 5"] = {"promises": {"false rejects": promise | {"seen": 0.2}}}
    kept, missed, total = describe_promises(rows)
    assert kept.startswith("toys 12 x 5") and kept.endswith("seen 0.080")
    assert "promised 0.050 [0.010, 0.100], seen 0.200  outside" in missed
    assert total == "1 of 2 seen shares lie in the interval of what was promised"


def test_the_same_folder_is_drawn_again(pool, tmp_path):
    for place in ("one", "two"):
        draw_folder(pool, tmp_path / place, 2, 5)
    assert names(tmp_path / "one/own") == names(tmp_path / "two/own")
    assert names(tmp_path / "one/new") == names(tmp_path / "two/new")


def test_toys_are_drawn_by_their_numbers(tmp_path):
    pool = {f"toy {i}": ([str(j) for j in range(6)], None) for i in range(3)}
    draw_folder(pool, tmp_path / "toys", 2, 2)
    images = [path.read_bytes() for path in (tmp_path / "toys").rglob("*.png")]
    assert len(images) == 2 * 6 + 4 == len(set(images)), "four of another toy, too"


def test_a_line_of_the_table_shows_both_shares_and_the_paired_interval():
    found = {"plain": 0.8, "delivered": 0.85, "gain": 0.05, "gain 95%": [0.01, 0.09]}
    found |= {"weight": 0.5, "seconds": 60, "held-out classes": {"plain": 0.9, "delivered": 0.95}}
    line = describe("toys 5 x 10", found)
    assert "0.800 -> 0.850  +0.050 [+0.010, +0.090]" in line and "0.900 -> 0.950" in line
