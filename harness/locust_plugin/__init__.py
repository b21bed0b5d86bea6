"""dairyperf within Locust: users that record every request, and a run that is measured and judged around them.

Only locustfiles import this: importing Locust patches the process. A run is the same under the command line, under
plain `locust --headless`, with workers, and in the web interface: `python -m harness.observe` puts the stack back,
warms it and takes the snapshots in a process without gevent; told of each phase over a pipe, it writes the run's
documents.
"""

from harness.locust_plugin import start
from harness.locust_plugin.users import (
    ApiUser,
    DairyUser,
    OdooJson2User,
    OdooUser,
    OdooWebUser,
    OdooXmlRpcUser,
    roles,
)

__all__ = ["ApiUser", "DairyUser", "OdooJson2User", "OdooUser", "OdooWebUser", "OdooXmlRpcUser", "roles", "start"]
