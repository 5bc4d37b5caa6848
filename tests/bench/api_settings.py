from tranche_site.settings import *  # noqa: F403

ROOT_URLCONF = "tests.bench.api_urls"
API_RATE_PER_KEY = API_RATE_PER_CUSTOMER = 10**9
