# edgellm's server: docker build -t edgellm . && docker run -v ./models:/models -p 8080:8080 edgellm
# It serves every GGUF file in /models and prints the API key that clients need, unless EDGELLM_API_KEY is set.
# For amd64 and arm64: the kernels for the CPU it runs on are chosen when it starts.

FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/edgellm
COPY pyproject.toml CMakeLists.txt README.md LICENSE /source/
COPY scripts /source/scripts
COPY native /source/native
COPY models /source/models
COPY edgellm /source/edgellm
RUN /opt/edgellm/bin/pip install --no-cache-dir /source

FROM python:3.12-slim-bookworm
COPY --from=build /opt/edgellm /opt/edgellm
RUN useradd --system --uid 10001 --no-create-home edgellm \
    && install -d -o edgellm /models
ENV PATH=/opt/edgellm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/models \
    EDGELLM_HOST=0.0.0.0
USER 10001
WORKDIR /models
VOLUME /models
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["edgellm"]
CMD ["serve", "/models"]
