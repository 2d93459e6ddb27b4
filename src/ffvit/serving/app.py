"""The routes of a server, and their descriptions for OpenAPI."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ffvit.errors import FfvitError
from ffvit.serving.bodies import Base64Images, read_images
from ffvit.serving.gate import Gate, problem
from ffvit.serving.limits import Rates, RefusedError
from ffvit.serving.service import Served, Service

MOST_CLASSES = 100
"""Classes of an answer."""

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class ClassProbability(BaseModel):
    """A class with its calibrated probability."""

    name: str
    probability: float = Field(ge=0, le=1)


class ModelPrediction(BaseModel):
    """What one network says of an image."""

    model: str
    classes: list[ClassProbability] = Field(description="Likeliest first.")
    none_of_these: bool | None = Field(
        description="Whether the image is likely of none of the classes; null where the weights bring no threshold."
    )


class ImagePrediction(BaseModel):
    """What the networks say of an image."""

    image: str = Field(description="The file's name, or the image's number.")
    predictions: list[ModelPrediction]


class Predictions(BaseModel):
    """The answer of /predict."""

    images: list[ImagePrediction]
    seconds: float = Field(description="From the whole request to its answer.")


class Explanation(BaseModel):
    """The answer of /explain: the image in patches, row by row."""

    model: str
    class_name: str
    probability: float = Field(description="Of the class, for the whole image.")
    covered: list[list[float]] = Field(description="The same with each patch covered by the mean colour.")
    evidence: list[list[float]] = Field(
        description="By how much the log-odds of the class fall as a patch is covered, in nats; above 0 it speaks for it."
    )
    seconds: float


class Model(BaseModel):
    """A network that answers here."""

    name: str
    classes: list[str]
    image_size: tuple[int, int] = Field(description="Height and width in pixels.")
    crop: float = Field(description="Share of the shorter side that is in there; an exported file crops by itself.")
    temperature: float = Field(description="What logits are divided by, so that probabilities are calibrated.")
    ood_threshold: float | None = Field(
        description="Energy score below which an image is likely of none of the classes."
    )


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    status: int
    title: str
    detail: str


PROBLEMS = {
    400: "The body is damaged, or holds no image.",
    401: "A bearer token is needed.",
    403: "The request comes from a page of another origin.",
    408: "The request came too slowly.",
    413: "The request has too many bytes or images.",
    415: "The content type is not read.",
    421: "The Host header names another server.",
    422: "An image cannot be read, or a value is wrong.",
    429: "Too many requests from this address.",
    500: "The network or the server failed.",
    503: "The server is busy.",
    504: "There was no answer in time.",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, words in PROBLEMS.items()
}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
_FORM = {"type": "object", "properties": {"file": _FILES}, "required": ["file"], "additionalProperties": False}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": Base64Images.model_json_schema()},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_ModelName = Annotated[str | None, Query(description="Ask this network alone. Default: all that answer here.")]


def make_app(service: Service, *, token: str | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """The app; once it starts, the service does.

    Args:
        service: What answers.
        token: What requests must bear, or None.
        hosts: Names that requests may call the server by, or None for any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="ffvit",
        version=version("ffvit"),
        summary="Image classification.",
        lifespan=lifespan,
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_predict(app, service)
    _add_explain(app, service)
    _add_state(app, service)
    _add_page(app)
    _add_errors(app)
    rates = Rates(service.limits.rate) if service.limits.rate is not None else None
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(Gate, metrics=service.metrics, paths=paths, rates=rates, token=token, hosts=hosts)
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post("/predict", response_model=Predictions, responses=_RESPONSES, openapi_extra=_BODY)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=MOST_CLASSES, description="Classes per image, likeliest first.")] = 5,
        model: _ModelName = None,
    ) -> Response:
        """Predict the classes of one image or several, with calibrated probabilities."""
        chosen = service.chosen(model)
        with service.capacity.share() as share:
            images = await read_images(request, share)
            request.state.log["images"] = len(images)
            start = time.perf_counter()
            by_model = await service.predict(images, chosen, top)
        answers = [
            {
                "image": name,
                "predictions": [
                    {
                        "model": served.name,
                        "classes": [
                            {"name": label, "probability": probability}
                            for label, probability in zip(rows[number].classes, rows[number].probabilities, strict=True)
                        ],
                        "none_of_these": rows[number].none_of_these,
                    }
                    for served, rows in zip(chosen, by_model, strict=True)
                ],
            }
            for number, (name, _) in enumerate(images)
        ]
        return JSONResponse({"images": answers, "seconds": time.perf_counter() - start})


def _add_explain(app: FastAPI, service: Service) -> None:
    @app.post("/explain", response_model=Explanation, responses=_RESPONSES, openapi_extra=_BODY)
    async def explain(
        request: Request,
        model: Annotated[str | None, Query(description="The network. Default: the first.")] = None,
        class_name: Annotated[str | None, Query(alias="class", description="Default: the likeliest one.")] = None,
    ) -> Response:
        """Cover each patch of one image in turn, and say how the probability of a class changes."""
        served: Served = service.chosen(model)[0]
        with service.capacity.share() as share:
            images = await read_images(request, share)
            if len(images) > 1:
                raise RefusedError(422, "images are explained one at a time: send one")
            request.state.log["images"] = 1
            start = time.perf_counter()
            ((name, image),) = images
            found = await service.explain(name, image, served, class_name)
        return JSONResponse(
            {
                "model": served.name,
                "class_name": served.predictor.class_names[found.class_index],
                "probability": found.probability,
                "covered": found.covered,
                "evidence": found.evidence,
                "seconds": time.perf_counter() - start,
            }
        )


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/models", response_model=list[Model])
    async def models() -> Response:
        """The networks that answer here."""
        return JSONResponse(
            [
                {
                    "name": served.name,
                    "classes": served.predictor.class_names,
                    "image_size": served.predictor.shape[1:],
                    "crop": served.predictor.crop,
                    "temperature": served.predictor.temperature,
                    "ood_threshold": served.predictor.ood_threshold,
                }
                for served in service.served.values()
            ]
        )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: _RESPONSES[503]})
    async def readyz() -> dict[str, str]:
        """Whether the networks are loaded and warm (before that, no connection is accepted), and new requests welcome."""
        if service.draining:
            raise RefusedError(503, "the server is about to end")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    folder = files("ffvit.serving") / "page"
    for path, (name, kind) in PAGE.items():
        file = _file((folder / name).read_bytes(), kind)
        app.add_api_route(path, file, methods=["GET", "HEAD"], include_in_schema=False)


def _file(content: bytes, kind: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return file


def _add_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        request.state.log["detail"] = error.detail
        return problem(error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "there is no such path; /openapi.json lists all", 405: "the path has no such method"}
        sentence = words.get(error.status_code, str(error.detail))
        headers = {name.replace("-", "_"): value for name, value in (error.headers or {}).items()}
        return await refused(request, RefusedError(error.status_code, sentence, **headers))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return await refused(
            request, RefusedError(422, f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}")
        )

    async def ours(request: Request, error: Exception) -> Response:
        return await refused(request, RefusedError(500, str(error)))

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(FfvitError, ours)
