"""The aggregated model over HTTP: `serve run serve.app:build config=CONFIG`, or `serve deploy serve/config.yaml`."""

from ray import serve

from hybridmu.cluster.serve_deployment import make_application
from hybridmu.config import default_config, load
from hybridmu.datasets import catalog
from hybridmu.errors import ConfigError


def build(args: dict[str, str]) -> serve.Application:
    """Build the application.

    Args:
        args: `config`: path of the YAML file (default: HYBRIDMU_CONFIG, then examples/mnist5k.yaml);
            `replicas`: how many processes answer (default 1), or `1-4`: as many as the load asks for.

    Returns:
        The application to run or deploy.

    Raises:
        ConfigError: An argument is not known.
    """
    if unknown := sorted(set(args) - {"config", "replicas"}):
        raise ConfigError(f"unknown argument(s) {unknown}", expected="config=PATH, replicas=N or LEAST-MOST")
    settings = load(args.get("config", default_config()))
    settings = catalog.resolved(settings)
    least, _, most = str(args.get("replicas", 1)).partition("-")
    if not least.isdigit() or (most and not most.isdigit()) or not 1 <= int(least) <= int(most or least):
        raise ConfigError("replicas is no number", expected="2, or 1-4", got=str(args["replicas"]))
    return make_application(settings, int(least), int(most) if most else None)
