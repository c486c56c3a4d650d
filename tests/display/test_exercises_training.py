"""The checking cells of notebooks 5 and 7 (of 5 the first), tried with what they depend on."""

import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from workbook import ROOT
from workbook.display import exercises
from workbook.evaluation import retrieval

ODD = ["two", None, [1, 2], (), {"a": 1}, print, float("nan")]


def evaluation():
    """Names that notebook 5 has made, of 60 embeddings in three classes that overlap."""
    rng, labels = np.random.default_rng(0), np.tile([0, 1, 2], 20)
    vectors = rng.normal(size=(60, 4)).astype(np.float32) + np.eye(3, 4, dtype=np.float32)[labels]
    gallery, test = np.arange(40), np.arange(40, 60)
    _, nearest = retrieval.nearest_neighbors(vectors[test], vectors[gallery])
    return {
        "np": np, "retrieval": retrieval, "exercises": exercises, "gallery": gallery, "test": test,
        "embeddings": {"trained": vectors}, "data": SimpleNamespace(labels=labels),
        "truth": labels[test], "correct": labels[gallery[nearest[:, 0]]] == labels[test],
        "KNeighborsClassifier": KNeighborsClassifier,
    }  # fmt: skip


def search():
    """Names that notebook 7 has made: a first search of 15 rows, judged on 296 images."""
    error = 100 * (0.75 * 0.25 / 296) ** 0.5
    return {"np": np, "exercises": exercises, "count": 296, "first": range(15), "error": error}


def exercise(notebook, name):
    """(source of the checking cell, source of the solution) of the exercise called `name`."""
    found = nbformat.read(ROOT / "notebooks" / notebook, as_version=4).cells
    check = next(c.source for c in found if re.search(rf"exercises\.check\(\s*{name},", c.source))
    solution = next(c.source for c in found if f"\n{name} = " in c.source and "```" in c.source)
    return check, re.search(r"```python\n(.*?)```", solution, re.DOTALL)[1]


CASES = {
    "voted": ("05_evaluation.ipynb", evaluation, [0.0, 1.0, 93]),
    "error_of_difference": ("07_choosing_settings.ipynb", search, [2.5169, 5.034, 0.0356]),
    "luck": ("07_choosing_settings.ipynb", search, [2.5169, 0, 1.74]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_check_accepts_the_solution_alone_and_answers_kindly_to_all(name, capsys):
    notebook, made, wrong = CASES[name]
    check, solution = exercise(notebook, name)
    names = made()

    def said(answer):
        exec(check, names | {name: answer})
        return capsys.readouterr().out

    exec(solution, names)
    right = names[name]
    assert said(...).startswith("Not answered yet") and str(right)[:4] not in said(...)
    assert said(right).startswith("Right.")
    for answer in (*wrong, *ODD):
        assert said(answer).startswith("Not yet. "), answer


def test_what_comes_near_is_told_what_is_missing(capsys):
    check, _ = exercise("05_evaluation.ipynb", "voted")
    names = evaluation()
    exec(check, names | {"voted": float(names["correct"].mean())})
    assert "Not yet. That is the answer of one neighbour" in capsys.readouterr().out
