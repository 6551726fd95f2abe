# The service with its weights. Any base with Python >= 3.11, venv and pip will do:
#     docker build --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm -t tvi-derain .
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS requirements
COPY pyproject.toml .
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /requirements.txt

# gigabytes, made anew only when the dependencies change
FROM ${PYTHON_IMAGE} AS dependencies
WORKDIR /src
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt .
COPY --from=requirements /requirements.txt .
RUN python3 -m venv /opt/derain && /opt/derain/bin/python -m pip install --requirement requirements.txt

FROM dependencies AS build
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model model
COPY training training
RUN /opt/derain/bin/python -m pip wheel --no-deps --wheel-dir /wheels .
COPY weights /weights
RUN chmod -R a+rX /weights

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="tvi-derain" \
      org.opencontainers.image.description="Takes rain out of photographs over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/derain/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DERAIN_WEIGHTS_DIR=/opt/derain/weights
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin derain
COPY --from=dependencies /opt/derain /opt/derain
COPY --from=build /weights /opt/derain/weights
COPY --from=build /wheels /tmp/wheels
RUN python -m pip install --no-deps --no-cache-dir /tmp/wheels/*.whl && rm -r /tmp/wheels
USER 10001
WORKDIR /tmp
EXPOSE 8000
# ready only once the weights are loaded and warmed up
HEALTHCHECK --interval=10s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
# exec form: SIGTERM reaches the service, which finishes what it has taken on
STOPSIGNAL SIGTERM
CMD ["derain", "serve", "--host", "0.0.0.0", "--port", "8000"]
