import pytest
from monitoring import Site


@pytest.fixture(scope="session")
def site():
    """A scraped front end under load; see monitoring.Site."""
    running = Site()
    with running.stack:
        yield running
