"""The name of a task under its settings."""

import inspect
from collections.abc import Callable


def task_name(name: str, maker: Callable[..., object], **settings: object) -> str:
    """The catalogue's name, and behind it each setting that is not its maker's default: `numerals order=+2`."""
    usual = {key: parameter.default for key, parameter in inspect.signature(maker).parameters.items()}
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items() if value != usual[key])])
