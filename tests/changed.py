"""Print the tests of what has changed since a commit, as arguments of pytest.

With `--papers` print the papers that have changed instead, as an expression for its option -k.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def changed(base):
    """The Python files of the package and the tests that differ from `base`."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", base, "--", "jaxdyn", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    names = done.stdout.split()
    return [Path(name) for name in names if name.endswith(".py")]


def tests_of(path):
    """The tests of a file: itself, or its doctests and the tests of its room."""
    if path.parts[0] == "tests":
        return {str(path)} if path.name.startswith("test_") else set()
    if path.parts[1] == "papers" and len(path.parts) > 3:
        return {str(path)}
    room = Path("tests", *path.parts[1:-1])
    if not path.parts[1:-1]:
        room = Path("tests", path.parts[1].removesuffix(".py"))
    places = (room / f"test_{path.name}", room, Path("tests", f"test_{path.name}"))
    found = next((place for place in places if (ROOT / place).exists()), None)
    return {str(path), str(found)} if found else {str(path)}


def paper_of(path):
    """The paper that a file belongs to, or None."""
    if path.parts[:2] != ("jaxdyn", "papers") or len(path.parts) < 4:
        return None
    return path.parts[3].removesuffix(".py")


if __name__ == "__main__":
    base, *options = sys.argv[1:]
    files = changed(base)
    if options == ["--papers"]:
        names = {paper_of(path) for path in files} - {None, "__init__"}
        print(*sorted(names), sep=" or ")
    else:
        chosen = set()
        for path in files:
            chosen |= tests_of(path)
        print(*sorted(chosen), sep="\n")
