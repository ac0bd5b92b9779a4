"""Read the README and the guides as a user does: print the commands that they give, and run commands and snippets.

They are fenced blocks behind a marker: ``<!-- command: tests -->``, ``<!-- snippet -->``, and ``<!-- run -->`` for
commands that are run as they stand. Consecutive ones are one session, as for a reader who types them in order.
"""

import re
import subprocess
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


def run_commands(page: Path, folder: Path) -> None:
    """Run the commands of a page, in order, in an empty folder."""
    blocks = re.findall(_BLOCK.format(marker="run"), page.read_text(), re.DOTALL)
    if not blocks:
        raise SystemExit(f"{page} has no block behind the marker 'run'")
    folder.mkdir(parents=True)
    for block in blocks:
        print(f"+ {block.strip()}", flush=True)
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["command", name]:
            print(command(name))
        case ["run-snippets", folder]:
            run_snippets(Path(folder))
        case ["run-commands", page, folder]:
            run_commands(Path(page), Path(folder))
        case _:
            raise SystemExit("usage: readme.py command NAME | run-snippets FOLDER | run-commands PAGE FOLDER")
