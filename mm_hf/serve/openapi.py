"""The description of a service (OpenAPI 3.0, which the page of documentation can show), made from what its checkpoint
reads and answers."""

from collections.abc import Mapping
from typing import Any

from .. import __version__
from .rows import ROWS, Key
from .service import Service


MOST_LABELS = 200  # that are listed
OPTIONS = {
    "top_k": {"type": "integer", "minimum": 1, "nullable": True, "description": "how many answers; null: all"},
    "coverage": {
        "type": "number",
        "minimum": 0.5,
        "maximum": 0.999,
        "description": "in place of the best answers a set that holds the truth in this share of rows; of a "
        "calibrated model",
    },
    "abstain_below": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "no answer (an empty list) where the best score is below",
    },
}


def describe(service: Service) -> dict[str, Any]:
    """The whole description; the model has to be loaded."""
    backend = service.backend
    options = {name: OPTIONS.get(name, {}) for name in backend.options}
    row = {
        "type": "object",
        "properties": {key: item_schema(key, known, service) for key, known in service.keys.items()},
        "additionalProperties": False,
        "minProperties": 1,
        "description": "Any of these may be left out or null: the model then answers without it.",
    }
    asked = {
        "type": "object",
        "required": [ROWS],
        "additionalProperties": False,
        "properties": {
            ROWS: {"type": "array", "minItems": 1, "maxItems": service.limits.rows, "items": ref("Row")},
            **options,
        },
        "example": {ROWS: [service.example]},
    }
    form = {
        "type": "object",
        "properties": {
            **{key: field_schema(key, known, service) for key, known in service.keys.items()},
            **options,
        },
    }
    schemas = {
        "Row": row,
        "Request": asked,
        "Form": form,
        "Answer": answer_schema(service.example_answer, closed="top_k" in backend.options),
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["kind", "message"],
                    "properties": {"kind": {"type": "string"}, "message": {"type": "string"}},
                }
            },
        },
    }
    secured: dict[str, Any] = {}
    if service.settings.api_key is not None:
        secured = {"security": [{"key": []}]}
    paths = {
        "/predict": {"post": operation("Answers rows.", "predict", {"answer": ref("Answer")}, secured)},
        "/health": {"get": plain("Whether the process lives.", "health")},
        "/ready": {"get": plain("Whether it answers: the model is loaded, and it is not stopping.", "ready")},
        "/metrics": {"get": {**plain("Counts for Prometheus.", "metrics", "text/plain"), **secured}},
    }
    if backend.explains:
        paths["/explain"] = {
            "post": operation(
                "Answers rows, and says what each modality gave to each answer.",
                "explain",
                {"answer": ref("Answer"), "evidence": {"type": "object"}},
                secured,
            )
        }
    components: dict[str, Any] = {"schemas": schemas}
    if secured:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": service.settings.title,
            "version": __version__,
            "description": f"A {type_of(backend.config)} that reads {', '.join(backend.config.modalities)}. Files are "
            "sent as their bytes, in base 64 or as uploads of a form; paths and addresses are not opened.",
        },
        "paths": paths,
        "components": components,
    }


def type_of(config: Any) -> str:
    """The class of the model."""
    return (config.architectures or [config.model_type])[0]


def ref(name: str) -> dict[str, str]:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def item_schema(key: str, known: Key, service: Service) -> dict[str, Any]:
    """What a row may have under a key."""
    schema = dict(known.reader.request_schema(service.backend.processor, key))
    places = known.modality.places(service.backend.config)
    if places > 1 and known.modality.several_places:
        several = {"type": "array", "maxItems": places, "items": {**schema, "nullable": True}}
        return {"anyOf": [schema, several], "description": f"{places} {known.modality.items} at most, in their places"}
    return {**schema, "nullable": True} if "type" in schema else schema


def field_schema(key: str, known: Key, service: Service) -> dict[str, Any]:
    """The same in a form."""
    if known.reader.files:
        return {"type": "string", "format": "binary"}
    schema = known.reader.request_schema(service.backend.processor, key)
    return dict(schema) if known.reader.takes_texts else {"type": "string", "description": "JSON, as in a row"}


def operation(summary: str, name: str, answer: Mapping[str, Any], secured: dict[str, Any]) -> dict[str, Any]:
    """A route that takes rows."""
    row = {"type": "object", "properties": {**answer, "error": {"type": "object"}}}
    answered = {
        "type": "object",
        "required": ["answers"],
        "properties": {"answers": {"type": "array", "items": row, "description": "one for each row, in their order"}},
    }
    refused = {
        "400": "the body is no JSON, or no form",
        "401": "the key is missing or wrong",
        "408": "the body came too slowly",
        "413": "the body is too large, or has too many rows",
        "415": "the body is of another type",
        "422": "no row could be answered; where some could, the others have their error in their place and the "
        "status is 200",
        "503": "busy, loading or stopping; see Retry-After",
        "504": "it took too long",
    }
    if not secured:
        refused.pop("401")
    return {
        "summary": summary,
        "operationId": name,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref("Request")},
                "multipart/form-data": {"schema": ref("Form")},
            },
        },
        "responses": {
            "200": {"description": "the answers", "content": {"application/json": {"schema": answered}}},
            **{
                status: {"description": said, "content": {"application/json": {"schema": ref("Error")}}}
                for status, said in refused.items()
            },
        },
        **secured,
    }


def plain(summary: str, name: str, kind: str = "application/json") -> dict[str, Any]:
    """A route that takes nothing."""
    schema = {"type": "string"} if kind != "application/json" else {"type": "object"}
    said = {"description": "as it says", "content": {kind: {"schema": schema}}}
    return {"summary": summary, "operationId": name, "responses": {"200": said}}


def answer_schema(value: Any, closed: bool) -> dict[str, Any]:
    """What answers look like, as one with everything in it tells.

    Args:
        value: an answer with all labels.
        closed: texts in it are labels, and there are no others.
    """
    if isinstance(value, Mapping):
        named = {str(key): answer_schema(one, closed) for key, one in value.items()}
        return {"type": "object", "properties": named}
    if isinstance(value, list):
        if not value:
            return {"type": "array", "items": {}}
        if all(isinstance(one, Mapping) for one in value):
            keys = dict.fromkeys(key for one in value for key in one)
            columns = {key: [one[key] for one in value if key in one] for key in keys}
            named = {key: answer_schema_of(values, closed) for key, values in columns.items()}
            return {"type": "array", "items": {"type": "object", "properties": named}}
        return {"type": "array", "items": answer_schema(value[0], closed)}
    return answer_schema_of([value], False)


def answer_schema_of(values: list[Any], closed: bool) -> dict[str, Any]:
    """What a value of an answer may be, of all that it can be."""
    first = values[0]
    if isinstance(first, str):
        listed = closed and len(values) <= MOST_LABELS
        return {"type": "string", **({"enum": list(dict.fromkeys(values))} if listed else {})}
    return {"type": "number"} if isinstance(first, (int, float)) else answer_schema(first, closed)
