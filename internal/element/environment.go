package element

// YAML is a stub.
func YAML(els []*Element) string { return "" }

// ArrayFunction is a stub.
func ArrayFunction(els []*Element) string { return "() { :; }" }
