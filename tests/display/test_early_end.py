"""A notebook that cannot go on ends without an error."""

from IPython.core.interactiveshell import InteractiveShell

from workbook.display import early_end


def test_later_cells_do_nothing(monkeypatch, capsys):
    shell = InteractiveShell()
    monkeypatch.setattr(early_end, "get_ipython", lambda: shell)
    assert not shell.run_cell("1 / 0").success
    capsys.readouterr()
    early_end.skip_remaining_cells("no data\x1b[31m")
    assert capsys.readouterr().out.startswith("The cells below do nothing: no data")
    for source in ("1 / 0", "%%time\nmissing", "x = (", "print('seen')"):
        assert shell.run_cell(source).success, source
    assert capsys.readouterr().out == ""


def test_outside_a_notebook_it_only_prints(capsys):
    early_end.skip_remaining_cells("no data")
    assert capsys.readouterr().out == "The cells below do nothing: no data\n"
