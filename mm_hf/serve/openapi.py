"""Describes a service in OpenAPI 3.0, from the inputs and answers of its checkpoint. The documentation page shows
it."""

from collections.abc import Mapping
from typing import Any

from .. import __version__
from .rows import ROWS, Key
from .service import Service


MOST_LABELS = 200  # maximum number of listed labels
OPTIONS = {
    "top_k": {"type": "integer", "minimum": 1, "nullable": True, "description": "number of answers; null: all"},
    "coverage": {
        "type": "number",
        "minimum": 0.5,
        "maximum": 0.999,
        "description": "for a calibrated model: instead of the best answers, the set of answers that contains the "
        "truth in this share of rows",
    },
    "abstain_below": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "give no answer (an empty list) if the best score is below this threshold",
    },
}


def describe(service: Service) -> dict[str, Any]:
    """The whole description. The model must be loaded before."""
    backend = service.backend
    options = {name: OPTIONS.get(name, {}) for name in backend.options}
    row = {
        "type": "object",
        "properties": {key: item_schema(key, known, service) for key, known in service.keys.items()},
        "additionalProperties": False,
        "minProperties": 1,
        "description": "Each key may be left out or null. Then the model answers without it.",
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
        "/health": {"get": plain("Whether the process is running.", "health")},
        "/ready": {"get": plain("Whether it can answer: the model is loaded, and it is not stopping.", "ready")},
        "/metrics": {"get": {**plain("Counts for Prometheus.", "metrics", "text/plain"), **secured}},
    }
    if backend.explains:
        paths["/explain"] = {
            "post": operation(
                "Answers rows, and gives the contribution of each modality to each answer.",
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
            "description": f"A {type_of(backend.config)} that reads {', '.join(backend.config.modalities)}. Send the "
            "bytes of files, in base 64 or as uploads of a form. Paths and URLs are not opened.",
        },
        "paths": paths,
        "components": components,
    }


def type_of(config: Any) -> str:
    """The class of the model."""
    return (config.architectures or [config.model_type])[0]


def ref(name: str) -> dict[str, str]:
    """A reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def item_schema(key: str, known: Key, service: Service) -> dict[str, Any]:
    """The schema of a row's value for a key."""
    schema = dict(known.reader.request_schema(service.backend.processor, key))
    places = known.modality.places(service.backend.config)
    if places > 1 and known.modality.several_places:
        several = {"type": "array", "maxItems": places, "items": {**schema, "nullable": True}}
        return {"anyOf": [schema, several], "description": f"at most {places} {known.modality.items}, in order"}
    return {**schema, "nullable": True} if "type" in schema else schema


def field_schema(key: str, known: Key, service: Service) -> dict[str, Any]:
    """The schema of a form's field for a key."""
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
        "properties": {"answers": {"type": "array", "items": row, "description": "one answer per row, in order"}},
    }
    refused = {
        "400": "the body is not valid JSON, or not a valid form",
        "401": "the key is missing or wrong",
        "408": "the body arrived too slowly",
        "413": "the body is too large, or has too many rows",
        "415": "the type of the body is not supported",
        "422": "no row could be answered; if some rows could be answered, the status is 200, and the other rows have "
        "an error instead of an answer",
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
    """A route without inputs."""
    schema = {"type": "string"} if kind != "application/json" else {"type": "object"}
    said = {"description": "the state, as described above", "content": {kind: {"schema": schema}}}
    return {"summary": summary, "operationId": name, "responses": {"200": said}}


def answer_schema(value: Any, closed: bool) -> dict[str, Any]:
    """The schema of answers, derived from one complete answer.

    Args:
        value: an answer with all labels.
        closed: whether the texts in it are all possible labels.
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
    """The schema of a value in an answer, from all its possible values."""
    first = values[0]
    if isinstance(first, str):
        listed = closed and len(values) <= MOST_LABELS
        return {"type": "string", **({"enum": list(dict.fromkeys(values))} if listed else {})}
    return {"type": "number"} if isinstance(first, (int, float)) else answer_schema(first, closed)
