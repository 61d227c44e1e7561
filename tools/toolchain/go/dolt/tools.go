//go:build tools

// Package tools keeps the requirement on Dolt in go.mod: `go mod tidy` drops what no file imports.
package tools

import _ "github.com/dolthub/dolt/go/cmd/dolt"
