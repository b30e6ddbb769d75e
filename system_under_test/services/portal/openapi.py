"""The portal's OpenAPI 3.1 description, made from the table of routes."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from system_under_test.domain.orders import KEY_PATTERN
from system_under_test.services.portal.problems import MEDIA_TYPE
from system_under_test.services.portal.route import Route
from system_under_test.services.portal.routes import ROUTES

_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "A problem document of RFC 9457; `field` names the part of the request that is at fault,"
    " `service` is the public status while balances are closed.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
        "service": {"$ref": "#/components/schemas/Status"},
    },
}


def describe(version: str) -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM_SCHEMA}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        for model in (route.body, route.answer):
            if model is not None:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {})
                schemas[model.__name__] = schema
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Savings portal",
            "version": version,
            "description": "Amounts are whole minor units. A 503 with Retry-After was not carried out; one without may"
            " have been: send the same order with the same Idempotency-Key again. What is no proper HTTP, or has too"
            " many or too long headers, is refused with 400, 403, 426 or 431 before it comes to an operation; a path"
            " that no operation has with 404, another method with 405.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "responses": {str(code): _response(route, code) for code in route.codes},
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _refer(route.body)}}}
    if route.authenticated:
        operation["security"] = [{"session": []}]
    parameters = [dict(parameter) for parameter in route.parameters]
    if route.keyed:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "Of the client's making; the same order sent again with it is carried out once.",
                "schema": {"type": "string", "pattern": KEY_PATTERN},
            }
        )
    if parameters:
        operation["parameters"] = parameters
    return operation


def _response(route: Route, code: int) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(code).phrase}
    if code >= 400:
        response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        if code in {429, 503}:
            response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    elif route.answer is not None:
        response["content"] = {"application/json": {"schema": _refer(route.answer)}}
    elif route.media_type is not None and code == 200:
        response["content"] = {route.media_type: {}}
    if route.keyed and code in {201, 202, 422}:
        response["headers"] = {
            "Idempotency-Replayed": {
                "schema": {"const": "true"},
                "description": "on the stored answer of an earlier try",
            }
        }
    return response


def _refer(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
