"""URLs of brokers and stores: understood whole, or refused in words that name the part and never its value. Pure."""
