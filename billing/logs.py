"""CDN log formats. Placeholder list until the reader lands."""

FORMATS = ("cloudflare_logpush", "cloudfront")
