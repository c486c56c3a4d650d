"""Sentences of the text that rest on a number, checked against the results at hand."""

HOLDS, DIFFERS, NOT_CLAIMED = "✓ ", "here it is different: ", "not claimed for this data: "
FAILED = " does not hold"


def check_claim(statement: str, holds: bool, expected_here: bool = True) -> None:
    """Print whether a statement of the text holds for the results of this run; nothing fails.

    A notebook tags the cell of such a call `claim`. A test reads the committed outputs and fails
    where a claim of the published run does not hold (see `read_claims`).

    Parameters
    ----------
    statement : one sentence without a full stop, such as "mining gains more than unit length".
    holds : whether the numbers say so; a NumPy bool will do. A comparison with nan is False.
    expected_here : False if the text claims this of other data only, for example of the toys.
    """
    text = " ".join(statement.split())
    if holds:
        print(f"{HOLDS}{text}")
    else:
        print(f"{DIFFERS if expected_here else NOT_CLAIMED}{text}{FAILED}")


def read_claims(output: str) -> dict[str, bool]:
    """Read what `check_claim` has printed: statement -> whether it holds.

    Lines of anything else, and of statements that are not claimed for the data, are passed over.
    """
    claims = {}
    for line in output.splitlines():
        if line.startswith(HOLDS):
            claims[line.removeprefix(HOLDS)] = True
        elif line.startswith(DIFFERS) and line.endswith(FAILED):
            claims[line.removeprefix(DIFFERS).removesuffix(FAILED)] = False
    return claims
