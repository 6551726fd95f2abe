"""Health and metadata of the Open Inference Protocol (V2), for what schedules and watches inference servers:
KServe, Triton's clients and the like. Images go through POST /derain.
"""

from importlib.metadata import version

from fastapi import APIRouter

from app.api import PipelineDependency, livez, readyz
from app.openapi import problem_responses
from app.schemas import (
    InferenceModel,
    InferenceModelReady,
    InferenceServer,
    InferenceServerLive,
    InferenceServerReady,
    InferenceTensor,
)

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@router.get("", summary="What this server is", responses=problem_responses(401, 429))
async def server() -> InferenceServer:
    """Its name and version."""
    return InferenceServer(name="tvi-derain", version=version("tvi-derain"), extensions=[])


@router.get("/health/live", summary="Whether the process works at all", responses=problem_responses(503))
async def live(pipeline: PipelineDependency) -> InferenceServerLive:
    """503 when the device thread has died: restart the process."""
    await livez(pipeline)
    return InferenceServerLive(live=True)


@router.get("/health/ready", summary="Whether requests are taken on", responses=problem_responses(503))
async def ready(pipeline: PipelineDependency) -> InferenceServerReady:
    """503 while the service is shutting down."""
    await readyz(pipeline)
    return InferenceServerReady(ready=True)


@router.get(
    "/models/{name}", summary="What a model takes and gives", responses=problem_responses(401, 404, 429)
)
async def model(name: str, pipeline: PipelineDependency) -> InferenceModel:
    """The tensors that one photograph is, inside POST /derain."""
    restorer = pipeline.restorer(name)
    pixels = [-1, -1, 3]
    return InferenceModel(
        name=restorer.name,
        versions=[],
        platform="pytorch",
        inputs=[
            InferenceTensor(name="image", datatype="UINT8", shape=pixels),
            InferenceTensor(name="prompt", datatype="BYTES", shape=[1]),
        ],
        outputs=[InferenceTensor(name="image", datatype="UINT8", shape=pixels)],
    )


@router.get(
    "/models/{name}/ready",
    summary="Whether a model takes images",
    responses=problem_responses(401, 404, 429, 503),
)
async def model_ready(name: str, pipeline: PipelineDependency) -> InferenceModelReady:
    """503 while the service is shutting down."""
    restorer = pipeline.restorer(name)
    await readyz(pipeline)
    return InferenceModelReady(name=restorer.name, ready=True)
