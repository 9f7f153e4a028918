# For a CPU: docker build --tag lesioncli .
# docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" lesioncli segment images --out masks/
FROM python:3.11-slim-bookworm AS build
COPY pyproject.toml README.md LICENSE /src/
COPY engines /src/engines
COPY lesioncli /src/lesioncli
RUN python -m venv /opt/lesioncli \
    && /opt/lesioncli/bin/pip install --no-cache-dir '/src[dicom,heif]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/lesioncli /opt/lesioncli
RUN useradd --uid 1000 --create-home lesioncli && install --directory --owner=1000 /data
ENV PATH=/opt/lesioncli/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib
USER 1000
# Engines are built at run time, into engines/ of the volume: the processor there decides on their precision.
WORKDIR /data
ENTRYPOINT ["lesioncli"]
