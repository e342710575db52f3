# The catalogue as an image: Airflow's own, with what the pipelines import.
# Written against the documentation of the base image; no Docker engine was at hand to build it with.
ARG AIRFLOW_VERSION=3.3.2
FROM apache/airflow:${AIRFLOW_VERSION}-python3.12

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --chown=airflow:0 requirements.txt requirements-torch.in envs/*.txt /tmp/
RUN pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" \
        -r /tmp/requirements.txt -r /tmp/requirements-torch.in \
    && for env in azure_ml kubeflow training; do \
        python -m venv "/home/airflow/$env" \
        && "/home/airflow/$env/bin/pip" install --no-cache-dir \
            --extra-index-url "${TORCH_INDEX}" -r "/tmp/$env.txt" || exit 1; \
    done

COPY --chown=airflow:0 . /opt/catalogue
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/catalogue/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW_VAR_AZURE_ML_PYTHON=/home/airflow/azure_ml/bin/python \
    AIRFLOW_VAR_KUBEFLOW_PYTHON=/home/airflow/kubeflow/bin/python \
    AIRFLOW_VAR_TRAINING_PYTHON=/home/airflow/training/bin/python \
    PYTHONPATH=/opt/catalogue
