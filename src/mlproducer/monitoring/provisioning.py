"""What Grafana reads when it starts: its data source, and where the dashboards are."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

PROMETHEUS: Final = "http://prometheus:9090"
"""Where Grafana finds Prometheus, if the exporter does not say: the name in our compose file."""

_DATASOURCE: Final = """\
# Made by `mlproducer dashboards export --provisioning`.
apiVersion: 1
datasources:
  - name: Prometheus
    type: prometheus
    uid: {uid}
    url: {url}
    access: proxy
    isDefault: true
    jsonData:
      httpMethod: POST
      # As in prometheus.yml: rates span at least four scrapes.
      timeInterval: 15s
"""

_DASHBOARDS: Final = """\
# Made by `mlproducer dashboards export --provisioning`.
apiVersion: 1
providers:
  - name: mlproducer
    folder: mlproducer
    type: file
    allowUiUpdates: false
    updateIntervalSeconds: 30
    options:
      path: {folder}
"""


def files(*, datasource: str, prometheus: str, dashboards: PurePosixPath) -> dict[str, str]:
    """Path below Grafana's `provisioning` folder → text. `dashboards` is their folder as Grafana sees it."""
    return {
        "datasources/mlproducer.yaml": _DATASOURCE.format(uid=_quoted(datasource), url=_quoted(prometheus)),
        "dashboards/mlproducer.yaml": _DASHBOARDS.format(folder=_quoted(str(dashboards))),
    }


def _quoted(text: str) -> str:
    """YAML's single quotes. Grafana puts environment variables in place of `$NAME`; `$$` is the sign itself."""
    return "'" + text.replace("'", "''").replace("$", "$$") + "'"
