"""`python -m mutants [WORD ...]`: try each wrong version whose name has one of the words; without words, all of them.
Stopped, it goes on where it was: what was seen is not tried again while code, patch and tests are the same.

Exit code 0 if the tests see each of them; 1 if one survives, or could not be tried; 2 if the tests fail without them.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

from mutants.kept import KEPT, Kept
from mutants.patches import FOLDER, BadPatch, Mutant, chosen
from mutants.running import Result, Verdict, try_mutant, try_unpatched

Results = dict[str, Result]


def main(words: Sequence[str] | None = None) -> int:
    asked = _arguments(words)
    try:
        mutants = chosen(FOLDER, asked.words)
    except BadPatch as error:
        print(error, flush=True)
        return 1
    if asked.list:
        print("\n".join(f"{each.name}: {each.wrong}" for each in mutants))
        return 0
    if not mutants:
        print(f"no patch in {FOLDER} has such a name")
        return 1
    kept = Kept(KEPT)
    known = {} if asked.again else {each.name: seen for each in mutants if (seen := kept.seen(each)) is not None}
    left = [each for each in mutants if each.name not in known]
    if known:
        print(f"{len(known)} were seen before, and nothing changed (--again tries them, too)", flush=True)
    failed = _unpatched(left, kept, asked.limit)
    if failed:
        print(f"{failed}\nThe tests fail on the code as it is, so that they tell nothing of wrong versions")
        return 2
    return _conclude(mutants, known | _try_all(left, kept, asked.jobs, asked.limit))


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make mutants ARGS=...", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="of the names of patches in tests/mutants")
    parser.add_argument("--jobs", type=int, default=2, help="tried at one time")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that the tests of one may take")
    parser.add_argument("--again", action="store_true", help="also what an earlier run saw")
    parser.add_argument("--list", action="store_true", help="only say what is wrong in each")
    return parser.parse_args(words)


def _unpatched(mutants: Sequence[Mutant], kept: Kept, limit: float) -> str:
    """What the tests say on the code as it is; empty if they pass."""
    every = dict.fromkeys(test for each in mutants for test in each.tests)
    passed = kept.passed(every)
    tests = [test for test in every if test not in passed]
    if not tests:
        return ""
    print(f"{len(tests)} tests on the code as it is ...", flush=True)
    # All of them in one run, where a mutant's are a few.
    failed = try_unpatched(tests, limit * len(tests))
    if not failed:
        kept.add_passed(tests)
    return failed


def _try_all(mutants: Sequence[Mutant], kept: Kept, jobs: int, limit: float) -> Results:
    results: Results = {}
    began, stop = time.monotonic(), Event()
    with ThreadPoolExecutor(jobs) as pool:
        tried = {pool.submit(try_mutant, each, limit, stop): each for each in mutants}
        try:
            for future in as_completed(tried):
                mutant, result = tried[future], future.result()
                results[mutant.name] = result
                kept.add(mutant, result)
                at = f"[{len(results)}/{len(mutants)}, {time.monotonic() - began:.0f} s]"
                print(f"{at} {mutant.name}: {result.verdict} ({result.said})", flush=True)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return results


def _conclude(mutants: Sequence[Mutant], results: Results) -> int:
    width = max(len(each.name) for each in mutants)
    print("\nwrong versions:")
    for each in mutants:
        result = results[each.name]
        print(f"  {each.name:{width}}  {result.seconds:4.0f} s  {result.verdict}: {each.wrong}")
    bad = [result for result in results.values() if result.verdict is not Verdict.SEEN]
    print(f"{len(results) - len(bad)} of {len(results)} are seen")
    return 1 if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the next run goes on from here")
