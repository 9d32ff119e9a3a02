"""Options that are declared once: pydantic models which know what "as before this option existed" means.

Schemas, documentation, CSV columns and digests are derived from them. pydantic alone is imported: Snakemake
has imported it already when the workflow reads its config.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

STORED = {"stored": True}  # validation context: what is read was written by some version of this package
_UNSET: Any = object()


class Declared(BaseModel):
    """Base of what is declared: frozen, closed, strict, with finite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any, info: ValidationInfo) -> Any:
        """Refuse unknown keys; in what was stored before an option existed, fill in its neutral value."""
        if not isinstance(data, Mapping):
            return data
        fields = cls.__pydantic_fields__  # model_fields looks them up first, which takes longer than the rest
        for key in data:
            if key not in fields:
                raise PydanticCustomError("unknown_key", "unknown key", {"key": key, "allowed": list(fields)})
        if info.context != STORED:
            return data
        filled = {}
        for name, field in fields.items():
            if name not in data and not field.is_required():
                extra = _extra(field)
                if "neutral" not in extra and not extra.get("optional"):
                    raise PydanticCustomError("missing_key", "missing key", {"key": name})
                filled[name] = extra.get("neutral", field.default)
        return {**data, **filled} if filled else data


def option(
    default: Any = ..., *, neutral: Any = _UNSET, digested: bool = True, optional: bool = False, **rest: Any
) -> Any:
    """Declare a field.

    Args:
        default: Its default; `...`: it is required.
        neutral: The value that means "as before this option existed". It is left out of digests, and filled
            into what was stored without the option. It need not be the default.
        digested: Whether it decides the result; a path, for example, does not.
        optional: Whether stored files may lack it, because it is only written where it applies.
        rest: As for `pydantic.Field`: description, ge, gt, ...
    """
    extra = dict(rest.pop("json_schema_extra", {}))
    if neutral is not _UNSET:
        extra["neutral"] = neutral
    if not digested:
        extra["digested"] = False
    if optional:
        extra["optional"] = True
    return Field(default=default, json_schema_extra=extra or None, **rest)


def _extra(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}


def decisive(model: Declared) -> dict[str, Any]:
    """Return what decides a result, as plain data: neither neutral values nor fields that do not count."""
    found: dict[str, Any] = {}
    for name, field in type(model).__pydantic_fields__.items():
        value, extra = getattr(model, name), _extra(field)
        if extra.get("digested") is False or ("neutral" in extra and value == extra["neutral"]):
            continue
        found[name] = _decisive(value)
    return found


def _decisive(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(each, Declared) for each in value):
        return [_decisive(each) for each in value]
    return decisive(value) if isinstance(value, Declared) else value


def digest_of_data(data: Any) -> str:
    """Return the SHA-256 of plain data, which does not depend on the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(ours: Any, theirs: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the keys, dotted, whose values differ between two pieces of plain data, with both values."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {**ours, **theirs}:
            place = f"{where}.{key}" if where else str(key)
            found |= differences(ours.get(key), theirs.get(key), place)
        return found
    return {} if ours == theirs and type(ours) is type(theirs) else {where: (ours, theirs)}


def _each_once(values: Any) -> Any:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise PydanticCustomError("twice", "listed twice", {"item": repr(value)})
    return values


class OneOf:
    """Annotates a name of a registry, which is looked up when a value is validated: plugins add to it.

    Args:
        names: Returns the names that are allowed.
    """

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": list(self.names()), "type": "string"}

    def _check(self, value: Any) -> str:
        allowed = list(self.names())
        if not isinstance(value, str) or value not in allowed:
            raise PydanticCustomError("not_registered", "unknown name", {"allowed": allowed})
        return value


Unique = AfterValidator(_each_once)
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=200)]  # a file's has 255 bytes
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), Unique]
