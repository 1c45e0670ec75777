#!/usr/bin/env python3
"""Copies a source file without the locks of one function.

    remove_lock.py FILE FUNCTION OUT      FUNCTION as its definition spells it, e.g. RequestQueue::Push

Ends with 1 if the function is not there or takes no std::lock_guard, so that a mutant never equals its original.
"""

import pathlib
import re
import sys

LOCK = re.compile(r"^\s*std::lock_guard<std::mutex> lock\(mutex_\);\n", re.MULTILINE)


def without_lock(text: str, function: str) -> str:
    # A definition starts at the margin and ends at the next brace there.
    found = re.search(rf"^\S[^\n;]*\b{re.escape(function)}\(.*?^}}$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"no definition of {function}")
    body, removed = LOCK.subn("", found[0])
    if removed == 0:
        raise SystemExit(f"{function} takes no std::lock_guard")
    return text[: found.start()] + body + text[found.end() :]


def main() -> None:
    source, function, out = sys.argv[1:]
    pathlib.Path(out).write_text(without_lock(pathlib.Path(source).read_text(), function))


if __name__ == "__main__":
    main()
