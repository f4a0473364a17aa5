// Package signature makes addresses that only we can have made, and that
// expire. It does not say who may ask for one.
package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"time"
)

// ErrInvalid means a signature that is missing, wrong, or of another path.
var ErrInvalid = errors.New("the signature is not valid")

// ErrExpired means a valid signature whose time is over.
var ErrExpired = errors.New("the signature has expired")

// Sign returns the query that lets a path be read until a moment, which is
// rounded down to the second.
func Sign(key []byte, path string, until time.Time) url.Values {
	expires := strconv.FormatInt(until.Unix(), 10)
	return url.Values{"expires": {expires}, "signature": {code(key, path, expires)}}
}

// Verify judges a path and its query at a moment.
func Verify(key []byte, path string, query url.Values, now time.Time) error {
	expires := query.Get("expires")
	if !hmac.Equal([]byte(query.Get("signature")), []byte(code(key, path, expires))) {
		return ErrInvalid
	}
	seconds, err := strconv.ParseInt(expires, 10, 64)
	if err != nil {
		return ErrInvalid
	}
	if now.Unix() > seconds {
		return ErrExpired
	}
	return nil
}

// The line break keeps path and time apart: neither can hold one.
func code(key []byte, path, expires string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(path + "\n" + expires))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
