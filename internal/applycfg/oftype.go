package applycfg

// OfType says that a value, as text, is of a type that [KnownType] knows.
func OfType(value, typeName string) bool { return ofType(value, typeName) }
