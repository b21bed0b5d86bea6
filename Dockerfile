# Locust with the harness, as master or worker; docker-compose.perf.yml says which.
FROM python:3.11-slim
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY pyproject.toml ./
COPY harness ./harness
COPY fixtures ./fixtures
COPY locustfiles ./locustfiles
COPY scenarios ./scenarios
COPY reports/style.css ./reports/style.css
COPY reports/templates ./reports/templates
RUN useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin harness \
 && install -d -o harness -g harness /runs .dairyperf
ENV PYTHONPATH=/app
USER 10001
EXPOSE 8089
CMD ["locust", "-f", "locustfiles/dairy_day.py"]
