"""What the OpenAPI document promises, held against every answer that a test gets."""

import json
import re
from typing import Any

from attrs import frozen
from jsonschema import Draft202012Validator

FROM_THE_ROUTER = {404, 405}


@frozen
class Contract:
    document: dict[str, Any]

    def check(self, method: str, target: str, answer: Any) -> None:
        """The status is one that is described, and so are its headers and its body."""
        operation = self._operation("GET" if method == "HEAD" else method, target.partition("?")[0])
        if operation is None:
            assert answer.status in FROM_THE_ROUTER, "a route that the document does not know"
            return
        promised = operation["responses"].get(str(answer.status))
        assert promised is not None, f"{method} {target}: {answer.status} is not described"
        for name in promised.get("headers", ()):
            assert name.lower() in answer.headers
        if method != "HEAD":
            self._check_body(promised.get("content", {}), answer)

    def _operation(self, method: str, path: str) -> Any:
        for template, operations in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
                return operations.get(method.lower())
        return None

    def _check_body(self, content: Any, answer: Any) -> None:
        if not content:
            assert answer.body == b""
            return
        media_type = answer.headers["content-type"].partition(";")[0]
        promised = content.get(media_type) or content.get("*/*")
        assert promised is not None, f"{media_type} is not described"
        if media_type == "application/json" and media_type in content:
            schema = {**promised["schema"], "components": self.document["components"]}
            Draft202012Validator(schema).validate(json.loads(answer.body))
