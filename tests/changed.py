"""Print the tests of what has changed since a commit, as arguments of pytest."""

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
    room = Path("tests", *path.parts[1:-1])
    if path.parts[1] == "papers" or not path.parts[1:-1]:
        room = Path("tests", path.parts[1].removesuffix(".py"))
    places = (room / f"test_{path.name}", room, Path("tests", f"test_{path.name}"))
    found = next((place for place in places if (ROOT / place).exists()), None)
    return {str(path), str(found)} if found else {str(path)}


if __name__ == "__main__":
    chosen = set()
    for changed_file in changed(sys.argv[1]):
        chosen |= tests_of(changed_file)
    print(*sorted(chosen), sep="\n")
