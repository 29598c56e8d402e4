# The page and the API of the net that comes with the package, on port 8000; see docs/docker.md.
FROM python:3.12-slim

# PyTorch's own index has a build for CPUs; the one of PyPI brings gigabytes of CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.11,<2.14"

COPY pyproject.toml README.md LICENSE /src/
COPY alexnet /src/alexnet
RUN pip install --no-cache-dir "/src[fast,serve]"

# The home folder keeps the kernels that are compiled at the first start.
RUN useradd --create-home alexnet
USER alexnet
WORKDIR /home/alexnet

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# Every request needs the token in ALEXNET_TOKEN. What is written after the image's name is added.
ENTRYPOINT ["alexnet", "serve", "--host", "0.0.0.0", "--port", "8000"]
