"""Best moves of tic-tac-toe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
CELLS = tuple(f"cell{i}" for i in range(1, 10))
TURN, MIRROR = (6, 3, 0, 7, 4, 1, 8, 5, 2), (2, 1, 0, 5, 4, 3, 8, 7, 6)  # which square comes to each


@dataclass(frozen=True)
class TicTacToe(Task):
    """A best move of tic-tac-toe with `level + 1` empty squares, by minimax; every best move is right.

    The squares are numbered 1 to 9 line by line. A variant rotates or reflects the board and may exchange X and O. Up to these
    16 symmetries a level has 25 to 95 problems. A corrupted twin has another symbol in one square, which may be a position
    that play in turns does not reach. The graph has the value of the position for the player to move: 1, 0 or -1.

    >>> from cloche.tasks import TicTacToe
    >>> item = TicTacToe().example(level=3, seed=0)
    >>> item.prompt, item.answer
    ('Tic-tac-toe: X . O / . X O / . X .. The best move of O is square', '9')
    """

    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        while True:
            order, first = rng.sample(range(9), 8 - level), rng.choice("XO")
            second = _other(first)
            board = ["."] * 9
            for i, square in enumerate(order):
                board[square] = (first, second)[i % 2]
            player = (first, second)[len(order) % 2]
            position = "".join(board), player
            if not _won(position[0]) and 2 * len(_best(*position)) <= level + 1 and _deciding(*position):
                return {**dict(zip(CELLS, board, strict=True)), "player": player}

    def template(self, values: Values) -> str:
        rows = " / ".join(" ".join(f"{{{cell}}}" for cell in CELLS[i : i + 3]) for i in (0, 3, 6))
        return f"Tic-tac-toe: {rows}. The best move of {{player}} is square"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {
            "value": Rule((*CELLS, "player"), lambda *given: _value("".join(given[:9]), given[9])),
            "answer": Rule((*CELLS, "player"), lambda *given: str(_best("".join(given[:9]), given[9])[0])),
        }

    def contrasts(self, values: Values) -> Sequence[str]:
        return _deciding(*_position(values))

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        """Another symbol, if the game is not over; the position may be one that play with turns does not reach."""
        changed = {**values, name: rng.choice("XO" if name == "player" else "XO.")}
        board, _ = _position(changed)
        return changed[name] if "." in board and not _won(board) else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        board, player = rng.choice(list(_same(*_position(values)))[1:])
        return {**dict(zip(CELLS, board, strict=True)), "player": player}

    def canonical(self, values: Values) -> str:
        return " ".join(min(_same(*_position(values))))

    def choices(self, values: Values) -> Sequence[str]:
        return [str(i) for i, cell in enumerate(CELLS, 1) if values[cell] == "."]

    def accepts(self, values: Values, answer: str) -> bool:
        return answer in map(str, _best(*_position(values)))


def _position(values: Values) -> tuple[str, str]:
    return "".join(values[cell] for cell in CELLS), values["player"]


def _other(player: str) -> str:
    return "O" if player == "X" else "X"


def _won(board: str) -> bool:
    return any(board[a] == board[b] == board[c] != "." for a, b, c in LINES)


@cache
def _value(board: str, player: str) -> int:
    """1 if the player to move wins, 0 for a draw, -1 if the other wins."""
    if _won(board):
        return -1  # the other has just completed a line
    return max((value for _, value in _moves(board, player)), default=0)


def _moves(board: str, player: str) -> Iterator[tuple[int, int]]:
    for i, cell in enumerate(board):
        if cell == ".":
            yield i + 1, -_value(board[:i] + player + board[i + 1 :], _other(player))


@cache
def _best(board: str, player: str) -> list[int]:
    moves = dict(_moves(board, player))
    return [square for square, value in moves.items() if value == max(moves.values())]


@cache
def _deciding(board: str, player: str) -> list[str]:
    """The cells of which one change makes another move the best."""
    found = []
    for i, cell in enumerate(CELLS):
        others = [board[:i] + symbol + board[i + 1 :] for symbol in "XO." if symbol != board[i]]
        open_ones = [other for other in others if "." in other and not _won(other)]
        if any(_best(other, player)[0] not in _best(board, player) for other in open_ones):
            found.append(cell)
    return found


def _same(board: str, player: str) -> Iterator[tuple[str, str]]:
    """The position in its 16 forms; the first is itself."""
    for _ in range(2):
        for _ in range(2):
            for _ in range(4):
                yield board, player
                board = "".join(board[i] for i in TURN)
            board = "".join(board[i] for i in MIRROR)
        board, player = board.translate(str.maketrans("XO", "OX")), _other(player)
