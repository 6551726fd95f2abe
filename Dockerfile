# The service with its weights, for NVIDIA GPUs (and for CPUs, where it finds no GPU) or, a quarter as large, for CPUs
# alone:
#     docker build -t tvi-derain:cuda .
#     docker build -t tvi-derain:cpu --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .

# any with Python >= 3.11; what is built in needs venv and pip, and has the same Python at the same path
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS requirements
# extras of pyproject.toml that the image has as well, separated by spaces; traces are sent only where they are asked for
ARG EXTRAS="otel"
COPY pyproject.toml .
RUN python3 -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = project['optional-dependencies']; \
        print(*project['dependencies'], *(line for name in sys.argv[1:] for line in extras[name]), sep='\n')" \
        ${EXTRAS} > /requirements.txt

# gigabytes, made anew only when the dependencies change
FROM ${BUILD_IMAGE} AS dependencies
# where torch and torchvision come from; all else is PyPI's
ARG TORCH_INDEX_URL=https://pypi.org/simple
WORKDIR /src
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt .
COPY --from=requirements /requirements.txt .
# Taken away again in the same layer: Triton, which compiles kernels and needs a C compiler for it, so that the
# operators that torch would give to it fail here, and do without when it is not there; libraries that nothing
# in torch or in NVIDIA's packages names; what only compilers and tests read.
RUN set -eu; \
    python3 -m venv --without-pip /opt/derain; \
    pip() { python3 -m pip --python /opt/derain/bin/python "$@"; }; \
    pip install --no-deps --index-url "${TORCH_INDEX_URL}" torch torchvision; \
    pip install --requirement requirements.txt; \
    pip uninstall --yes triton; \
    cd "$(/opt/derain/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")"; \
    rm -rf torch/include torch/test nvidia/*/include; \
    find torch/bin -type f ! -name torch_shm_manager -delete; \
    find . \( -name 'libcusolverMg.so*' -o -name 'libnvrtc*.alt.so*' -o -name '*.a' \) -delete; \
    find numpy sympy networkx -type d -name tests -prune -exec rm -r {} +

FROM dependencies AS build
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model model
COPY training training
RUN python3 -m pip --python /opt/derain/bin/python install --no-deps --prefix /service .
COPY weights /service/weights
RUN chmod -R a+rX /service

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/derain/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DERAIN_WEIGHTS_DIR=/opt/derain/weights
RUN groupadd --gid 10001 derain && \
    useradd --uid 10001 --gid derain --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin derain
COPY --from=dependencies /opt/derain /opt/derain
COPY --from=build /service /opt/derain
USER 10001:10001
WORKDIR /tmp
# torch looks for a place for kernels that it compiles when it is imported, and fails where nothing can be written
ENV TORCHINDUCTOR_CACHE_DIR=/tmp
EXPOSE 8000
# ready only once the weights are loaded and warmed up
HEALTHCHECK --interval=10s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
# exec form: SIGTERM reaches the service, which finishes what it has taken on
STOPSIGNAL SIGTERM
CMD ["derain", "serve", "--host", "0.0.0.0", "--port", "8000"]
# last, so that a new revision makes no layer anew
ARG VERSION=0.1.0
ARG SOURCE=""
ARG REVISION=""
LABEL org.opencontainers.image.title="tvi-derain" \
      org.opencontainers.image.description="Takes rain out of photographs over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}"
