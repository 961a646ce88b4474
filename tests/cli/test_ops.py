"""`sparsecc ops` prints the rule table, and the page of it is up to date."""

from __future__ import annotations

from pathlib import Path

from cli_outcome import Cli

from sparsecc.axes.rules.registry import all_rules
from sparsecc.cli.ops_verb import markdown

PAGE = Path(__file__).parents[2] / "docs" / "ops.md"


def test_every_op_has_a_line(cli: Cli) -> None:
    found = cli("ops")
    assert found.code == 0
    rows = all_rules()
    lines = found.out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(rows) + 1]] == [row.op for row in rows]
    assert lines[-1] == f"{len(rows)} ops"
    conv = next(line for line in lines if line.startswith("Conv "))
    assert "X[n,(g i),*s!] W[(g o),i,*k!] B[(g o)] -> Y[n,(g o),*t!]" in conv
    assert "sums over an axis on which one operand is 0" in conv


def test_one_family(cli: Cli) -> None:
    found = cli("ops", "--family", "recurrent")
    assert found.code == 0
    assert [line.split()[0] for line in found.out.splitlines()[1:4]] == ["GRU", "LSTM", "RNN"]
    assert found.out.endswith("3 ops\n")


def test_no_such_family(cli: Cli) -> None:
    found = cli("ops", "--family", "magic")
    assert found.code == 2
    assert "'magic'" in found.sentence()
    assert "recurrent" in found.sentence()


def test_the_page_is_up_to_date(cli: Cli) -> None:
    """`sparsecc ops --markdown > docs/ops.md` writes it."""
    found = cli("ops", "--markdown")
    assert found.out == PAGE.read_text(encoding="utf-8")
    assert found.out == markdown(all_rules())
    assert "| Concat | `A[*s,a,*t] B[*s,b,*t] -> Y[*s,(a\\|b),*t]` | moves entries |" in found.out
