"""The protocol as an AsyncAPI 3.0 document: the address, who may come in, and what is said there."""

from __future__ import annotations

from typing import Any

from scm_trio.protocol.schema import TYPES, Direction, Schema, definitions

PATH = "/scm/websocket/ai/chat"
PROTOCOL_VERSION = "1.0.0"

_CHANNEL = "#/channels/chat"

_QUERY: Schema = {
    "type": "object",
    "properties": {
        "userId": {"type": "string", "description": "Must be the token's user when it is present."},
        "sessionId": {"type": "string", "description": "The session of every message that names none."},
        "token": {"type": "string", "description": "The JWT, for clients that can set neither header."},
        "coalesceMs": {
            "type": "integer",
            "minimum": 0,
            "maximum": 500,
            "default": 0,
            "description": "The least time between two frames of one answer; the first goes out at once.",
        },
        "lang": {"type": "string", "default": "zh", "description": "en: English sentences; anything else: Chinese."},
    },
}

_SECURITY: dict[str, Schema] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Authorization: Bearer JWT. It goes before the other two.",
    },
    "subprotocol": {
        "type": "httpApiKey",
        "name": "Sec-WebSocket-Protocol",
        "in": "header",
        "description": "`Bearer, JWT`: the server selects `Bearer`. The JWT alone: the server selects it back.",
    },
    "queryToken": {"type": "httpApiKey", "name": "token", "in": "query"},
}


def document() -> dict[str, Any]:
    """The whole document, ready to be written as YAML or JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "scm_trio chat",
            "version": PROTOCOL_VERSION,
            "description": "One WebSocket: questions go up, streamed answers come down. docs/protocol.md says the rest.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "plain": _server("ws", "localhost:8088", "Development."),
            "secure": _server("wss", "chat.example.com", "With TLS configured, or behind a proxy that ends it."),
        },
        "channels": {
            "chat": {
                "address": PATH,
                "description": "One JSON object per text frame, UTF-8; binary frames are refused.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _messages()},
                "bindings": {"ws": {"method": "GET", "query": _QUERY, "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            "receive": _operation("receive", "client", "What a client may say."),
            "send": _operation("send", "server", "What the server says."),
        },
        "components": {
            "messages": _messages(),
            "schemas": _schemas("client") | _schemas("server"),
            "securitySchemes": _SECURITY,
        },
    }


def _server(protocol: str, host: str, description: str) -> Schema:
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY]
    return {"host": host, "protocol": protocol, "description": description, "security": security}


def _operation(action: str, direction: Direction, summary: str) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": _CHANNEL},
        "summary": summary,
        "messages": [{"$ref": f"{_CHANNEL}/messages/{direction}.{kind}"} for kind in TYPES[direction]],
    }


def _schemas(direction: Direction) -> dict[str, Schema]:
    found = definitions(direction, f"#/components/schemas/{direction}.")
    return {f"{direction}.{name}": schema for name, schema in found.items()}


def _messages() -> dict[str, Schema]:
    return {
        f"{direction}.{kind}": {
            "name": kind,
            "title": kind,
            "payload": {"$ref": f"#/components/schemas/{direction}.{kind}"},
        }
        for direction, types in TYPES.items()
        for kind in types
    }
