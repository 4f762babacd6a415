"""The addresses of Spark's models, as they are documented."""

from __future__ import annotations

import pytest

from scm_trio.config import PLACED_SPARK_MODELS
from scm_trio.providers.spark_models import _MODELS, spark_model


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("lite", "wss://spark-api.xf-yun.com/v1.1/chat"),
        ("general", "wss://spark-api.xf-yun.com/v1.1/chat"),
        ("generalv2", "wss://spark-api.xf-yun.com/v2.1/chat"),
        ("generalv3", "wss://spark-api.xf-yun.com/v3.1/chat"),
        ("pro-128k", "wss://spark-api.xf-yun.com/chat/pro-128k"),
        ("generalv3.5", "wss://spark-api.xf-yun.com/v3.5/chat"),
        ("max-32k", "wss://spark-api.xf-yun.com/chat/max-32k"),
        ("4.0Ultra", "wss://spark-api.xf-yun.com/v4.0/chat"),
        ("x1", "wss://spark-api.xf-yun.com/v1/x1"),
        ("spark-x", "wss://spark-api.xf-yun.com/v1/x1"),
        ("kjwx", "wss://spark-openapi-n.cn-huabei-1.xf-yun.com/v1.1/chat_kjwx"),
        ("a-tuned-one", None),
    ],
)
def test_every_model_has_the_address_that_fits_its_domain(domain, url):
    assert spark_model(domain).websocket_url == url


def test_the_configuration_knows_the_models_that_need_no_address():
    assert tuple(name for name, model in _MODELS.items() if model.websocket_url) == PLACED_SPARK_MODELS
