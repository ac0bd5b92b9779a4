"""Read the README as a user does: print the commands that it gives, and run its Python snippets.

Commands and snippets are fenced blocks behind a marker, ``<!-- command: tests -->`` or ``<!-- snippet -->``.
Consecutive snippets are one session, as for a reader who types them in order.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
_BLOCK = r"<!-- {marker} -->\n```\w+\n(.*?)```"


def command(name: str) -> str:
    """Return the single command line that the README gives under that name."""
    found = re.findall(_BLOCK.format(marker=f"command: {name}"), README.read_text(), re.DOTALL)
    if len(found) != 1 or len(found[0].strip().splitlines()) != 1:
        raise SystemExit(f"README.md has no single line behind the marker 'command: {name}'")
    return found[0].strip()


def run_snippets(folder: Path) -> None:
    """Run the README's snippets, in order, in an empty folder."""
    import os

    snippets = re.findall(_BLOCK.format(marker="snippet"), README.read_text(), re.DOTALL)
    if not snippets:
        raise SystemExit("README.md has no block behind the marker 'snippet'")
    folder.mkdir(parents=True)
    os.chdir(folder)
    session: dict[str, object] = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets, 1):
        print(f"snippet {number}: {snippet.strip().splitlines()[0]} ...")
        exec(compile(snippet, f"README.md, snippet {number}", "exec"), session)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["command", name]:
            print(command(name))
        case ["run-snippets", folder]:
            run_snippets(Path(folder))
        case _:
            raise SystemExit("usage: readme.py command NAME | run-snippets FOLDER")
