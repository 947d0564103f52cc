"""Messages as JSON: names as in the protocol, integers as numbers, enums by name."""

from typing import Any

from google.protobuf.message import Message


def as_json(message: Message) -> dict[str, Any]:
    """Return all fields of a message, also those that are not set, except of a oneof."""
    written: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            kind = field.message_type.fields_by_name["value"]
            written[field.name] = {str(key): _value(kind, value[key]) for key in value}
        elif _repeated(field):
            written[field.name] = [_value(field, each) for each in value]
        elif field.message_type is not None or field.containing_oneof is not None:
            if message.HasField(field.name):
                written[field.name] = _value(field, value)
        else:
            written[field.name] = _value(field, value)
    return written


def _repeated(field: Any) -> bool:
    # `label` is deprecated, and `is_repeated` is newer than the lowest version that is supported.
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.type == field.TYPE_BYTES:
        return value.decode("utf-8", "replace")
    return value
