"""What is wrong with the input, in words that name the file."""

import sys


class InputError(Exception):
    """Bad input; the text names the file or option, and what it should have been."""


def run(main, program: str) -> None:
    """Runs main(); bad input ends the program with status 2 and one line."""
    try:
        main()
    except InputError as error:
        sys.exit(_fail(f"{program}: {error}"))


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return 2
