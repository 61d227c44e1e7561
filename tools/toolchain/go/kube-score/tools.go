//go:build tools

// Package tools keeps the requirement on kube-score in go.mod: `go mod tidy` drops what no file imports.
package tools

import _ "github.com/zegl/kube-score/cmd/kube-score"
