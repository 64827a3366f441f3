"""Equations as docstrings write them, to MathML: browsers draw that without a script.

`c' = f * c + i * g` is read as it stands: `*` is elementwise, `s(` the logistic sigmoid, `_` a
subscript. What follows two spaces or a colon, and is no equation, is words.
"""

from __future__ import annotations

import html
import re
from typing import Any

import griffe
from latex2mathml.converter import convert

TOKEN = re.compile(r"\+=|<-|[^\W\d_]+(?:_\{[^}]*\}|_\w+)?'?|\d+(?:\.\d+)?|\S")
FUNCTIONS = {"tanh", "exp", "log", "max", "relu", "clip", "sign", "softplus", "LN", "Bernoulli"}
SIGNS = {"*": r"\odot ", "<-": r"\leftarrow ", "~": r"\sim ", "+=": r"\mathrel{+}= "}
EQUATION = re.compile(r"^[\w'{}, /]*?\w[\w'{}]*\s*(?:\+?=|<-|~)\s")


def latex(equation: str) -> str:
    """LaTeX of one equation."""
    tokens, out = TOKEN.findall(equation), ""
    for token, after in zip(tokens, [*tokens[1:], ""], strict=True):
        out += _latex(token, after)
    return out


def _latex(token: str, after: str) -> str:
    if token in SIGNS:
        return SIGNS[token]
    name, _, index = token.rstrip("'").partition("_")
    if not name.isalpha():
        return token
    if name in FUNCTIONS:
        shown = rf"\operatorname{{{name}}}"
    elif name == "s" and after == "(":
        shown = r"\sigma "
    else:
        shown = name if len(name) == 1 else rf"\mathrm{{{name}}}"
    shown += f"_{{{index.strip('{}')}}}" if index else ""
    return shown + ("'" if token.endswith("'") else "") + r"\, " * (after[:1].isalpha())


def line(text: str) -> str:
    """HTML of one line: equations, and words beside them."""
    text = re.sub(r"\s+<-\s+", " <- ", text.strip())
    return " ".join(_piece(piece) for piece in re.split(r"\s{2,}|: ", text))


def _piece(piece: str) -> str:
    if EQUATION.match(piece) and not re.search(r"[\"`]", piece):
        return convert(latex(piece))
    words = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(piece))
    return f'<span class="words">{words}</span>'


def rendered(docstring: str) -> str:
    """The docstring with each line of its indented blocks as MathML, where it has equations."""

    def block(found: re.Match[str]) -> str:
        lines = found[0].rstrip("\n").splitlines()
        if not any(EQUATION.match(text.strip()) for text in lines):
            return found[0]
        drawn = [f'<div class="equation">{line(text)}</div>' for text in lines if text.strip()]
        return "\n".join(drawn) + "\n"

    drawn = re.sub(r"(?<=\n\n)(?: {4,}.*\n?)+", block, docstring)
    return re.sub(r"\n(?=(?:`\w+`|Raises|Source): \S)", "\n\n", drawn)  # a paragraph each


class Equations(griffe.Extension):
    """Every docstring of the package, as griffe reads it."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = rendered(obj.docstring.value)
