"""Counts the lines of Python files: all of them, and those that are neither blank, comment nor docstring.

python docs/lines.py backbone highlevel lowlevel/fast.py
git -C OTHER archive HEAD src/policies | tar x -C /tmp/other && python docs/lines.py /tmp/other
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def count(path: Path) -> tuple[int, int]:
    """(lines, lines with code) of a file."""
    text = path.read_text()
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                code.difference_update(range(first.lineno, first.end_lineno + 1))
    return len(text.splitlines()), len(code)


def main(places: list[str]) -> None:
    files = sorted({f for p in map(Path, places) for f in ([p] if p.is_file() else p.rglob("*.py"))})
    counted = [(file, *count(file)) for file in files if not file.name.endswith("_test.py")]
    for file, lines, code in counted:
        print(f"{lines:6d} {code:6d}  {file}")
    print(f"{sum(c[1] for c in counted):6d} {sum(c[2] for c in counted):6d}  in {len(counted)} files")


if __name__ == "__main__":
    main(sys.argv[1:])
