"""Events on their way to customers: `payload` writes one, `verdict` decides what an answer means, `outbox` sends."""
