"""`python -m matrix`: see `--help`. Exit code 0 if all rows passed, 1 if something failed, 2 if a row was skipped."""

from __future__ import annotations

import argparse
import subprocess
import sys

from matrix.places import CHECKOUT, VAR
from matrix.plan import PYTHONS, RELEASES, ROWS, Row, chosen
from matrix.results import Book, Result
from matrix.running import run
from matrix.table import write

PAGE = CHECKOUT / "docs" / "compatibility.md"


def main() -> int:
    asked = _arguments()
    rows = chosen(asked.kind, asked.broker, asked.python)
    if asked.list:
        print("\n".join(row.name for row in rows))
        return 0
    commit, book = _commit(), Book(VAR / "results.json")
    for number, row in enumerate(rows, 1):
        if not asked.again and book.done(row, commit):
            print(f"[{number}/{len(rows)}] {row.name}: done on {commit} (--again runs it once more)", flush=True)
            continue
        print(f"[{number}/{len(rows)}] {row.name}", flush=True)
        result = run(row, commit, asked.jobs)
        book.add(result)
        write(PAGE, book, rows)
        print(f"  {_line(result)}", flush=True)
    return _conclude(book, rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make matrix ARGS=...", description=__doc__)
    kinds = sorted({row.kind for row in ROWS})
    parser.add_argument("--kind", action="append", default=[], choices=kinds)
    parser.add_argument("--broker", action="append", default=[], metavar="|".join(RELEASES), help="of RabbitMQ")
    parser.add_argument("--python", action="append", default=[], metavar="|".join(PYTHONS))
    parser.add_argument("--jobs", type=int, default=2, help="tests at one time")
    parser.add_argument("--again", action="store_true", help="rows too that this commit has results of")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    return parser.parse_args()


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()

    # The page is written by us: it changes nothing that is tried.
    changed = [line for line in git("status", "--porcelain").splitlines() if not line.endswith(PAGE.name)]
    return git("rev-parse", "--short", "HEAD") + (" and changes" if changed else "")


def _line(result: Result) -> str:
    if result.missing:
        return f"SKIPPED: {result.missing}"
    steps = "; ".join(f"{step.name}: {step.words().replace('**', '')}" for step in result.steps)
    return f"{'passed' if result.ok else 'FAILED'}: {steps}"


def _conclude(book: Book, rows: list[Row]) -> int:
    results = [(row, book.get(row)) for row in rows]
    print("\nthe matrix:")
    for row, result in results:
        print(f"  {row.name}: {'not run' if result is None else _line(result)}")
    print(f"written to {PAGE.relative_to(CHECKOUT)}")
    if any(result is not None and result.steps and not result.ok for _, result in results):
        return 1
    return 0 if all(result is not None and result.ok for _, result in results) else 2


if __name__ == "__main__":
    sys.exit(main())
