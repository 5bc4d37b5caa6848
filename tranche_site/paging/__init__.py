"""People are called about what burns: `alerts` asks what does, `sync` keeps pages of it, `sending` tells the channels."""
