//go:build tools

// Package tools keeps the requirement on bd in go.mod: `go mod tidy` drops what no file imports.
package tools

import _ "github.com/steveyegge/beads/cmd/bd"
