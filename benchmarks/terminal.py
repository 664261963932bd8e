"""What a sweep looks like in a terminal: docs/images/terminal.svg from a real `vae-sweep run configs/quickstart.yaml`.

    python -m benchmarks.terminal            about a minute

The command runs behind a pseudo-terminal; what it sends is drawn by a terminal emulator. Two screens are kept: one
while it trains, and the last one.
"""

from __future__ import annotations

import io
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
COLUMNS, LINES = 116, 100
"""so many lines that nothing scrolls away"""
ENDED = re.compile(r"^quickstart .* (\d+)/(\d+)", flags=re.MULTILINE)
STUDY = "configs/quickstart.yaml"


def main() -> None:
    """The command."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "configs").symlink_to(ROOT / "configs")
        training, last = screens(["vae-sweep", "run", STUDY], Path(folder))
    PICTURE.write_text(picture(f"vae-sweep run {STUDY}", training, last))
    print(f"written: {PICTURE.relative_to(ROOT)}")


def screens(command: list[str], folder: Path) -> tuple[list[Text], list[Text]]:
    """The terminal's lines once 40% of the trials have ended, and at the end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PATH": path}
        os.execvp(command[0], command)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, LINES)
    stream, training = pyte.ByteStream(screen), list[Text]()
    while chunk := _read(terminal):
        stream.feed(chunk)
        found = ENDED.search("\n".join(screen.display))
        if found and 0.4 < int(found[1]) / int(found[2]) < 0.9:
            training = training or _lines(screen)
    os.waitpid(pid, 0)
    return training, _lines(screen)


def _read(terminal: int) -> bytes:
    while True:
        select.select([terminal], [], [], 1.0)
        try:
            found = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            return b""
        if found:
            return found
        time.sleep(0.01)


def picture(command: str, *shown: list[Text]) -> str:
    """SVG of a terminal with the command and each screen, one below the other."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    for number, lines in enumerate(shown):
        if number:
            console.print(Text("  ⋮", style="dim"))
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop")
    svg = console.export_svg(title="vae-sweep", theme=SVG_EXPORT_THEME, unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # those would be fetched from elsewhere


def _lines(screen: pyte.Screen) -> list[Text]:
    rows = [row for row in range(LINES) if screen.display[row].strip()]
    return [_line(screen, row) for row in range(rows[-1] + 1)] if rows else []


def _line(screen: pyte.Screen, row: int) -> Text:
    chars = [screen.buffer[row][column] for column in range(COLUMNS)]
    text = Text()
    for style, same in groupby(chars, key=_style):
        text.append("".join(char.data for char in same), style)
    text.rstrip()
    return text


def _style(char: pyte.screens.Char) -> Style:
    return Style(color=_colour(char.fg), bgcolor=_colour(char.bg), bold=char.bold, reverse=char.reverse)


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    return (
        f"#{name}"
        if re.fullmatch(r"[0-9a-f]{6}", name)
        else name.replace("brown", "yellow").replace("bfight", "bright").replace("bright", "bright_")
    )


if __name__ == "__main__":
    main()
