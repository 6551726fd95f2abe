"""The Open Inference Protocol with a client of it. Were this wrong, what schedules inference servers
would never send this one a request."""

from urllib.parse import urlsplit

import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

MODEL = "tvi-derain-s"


@pytest.fixture
def inference(service_url: str) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(urlsplit(service_url).netloc)


def test_a_client_of_the_protocol_finds_server_and_model(inference: triton.InferenceServerClient) -> None:
    assert inference.is_server_live()
    assert inference.is_server_ready()
    assert inference.is_model_ready(MODEL)
    server = inference.get_server_metadata()
    assert server["name"] == "tvi-derain"
    assert server["version"]
    model = inference.get_model_metadata(MODEL)
    assert (model["name"], model["platform"]) == (MODEL, "pytorch")
    assert {tensor["name"]: tensor["datatype"] for tensor in model["inputs"]} == {
        "image": "UINT8",
        "prompt": "BYTES",
    }
    assert [tensor["shape"] for tensor in model["outputs"]] == [[-1, -1, 3]]


def test_a_model_that_is_not_there_is_not_ready(inference: triton.InferenceServerClient) -> None:
    assert not inference.is_model_ready("nothing")
    with pytest.raises(InferenceServerException):
        inference.get_model_metadata("nothing")
