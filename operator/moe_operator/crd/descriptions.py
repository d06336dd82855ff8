"""Descriptions of fields, taken from the docstrings under them.

They are read from the source when the CRD is made, not when the models are imported: pydantic's own reading of
docstrings would triple the start of every `moe` command.
"""

import ast
import inspect
from types import ModuleType


def field_descriptions(module: ModuleType) -> dict[str, dict[str, str]]:
    """Docstring under each annotated field of each class in a module: {class: {field: text}}."""
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    return {node.name: _docstrings(node) for node in classes}


def _docstrings(node: ast.ClassDef) -> dict[str, str]:
    texts = {}
    for field, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(following):
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            texts[field.target.id] = inspect.cleandoc(str(following.value.value)).replace("\n", " ")
    return texts


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
