package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"example.com/honeydue/internal/signature"
	"example.com/honeydue/internal/store"
)

const (
	uploadPrefix = "/api/uploads/"
	photoLimit   = 10 << 20
	linkLifetime = 15 * time.Minute
)

var photoExtensions = map[string]string{"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}

// linkedPhoto is a photo with an address that reads it for a while.
type linkedPhoto struct {
	store.Photo
	URL string `json:"url"`
}

func (a *API) link(photo store.Photo) linkedPhoto {
	path := uploadPrefix + photo.Key
	query := signature.Sign(a.SigningKey, path, a.Now().Add(linkLifetime))
	return linkedPhoto{Photo: photo, URL: path + "?" + query.Encode()}
}

func (a *API) listPhotos(w http.ResponseWriter, r *http.Request) {
	id, ok := pathID(w, r)
	if !ok {
		return
	}
	photos, err := a.Store.Photos(r.Context(), id)
	linked := make([]linkedPhoto, len(photos))
	for i, photo := range photos {
		linked[i] = a.link(photo)
	}
	answerList(w, r, linked, err)
}

// uploadPhoto takes the bytes of one photo as the body. Their type is read
// from the bytes: what a browser would run must not pass as a picture.
func (a *API) uploadPhoto(w http.ResponseWriter, r *http.Request) {
	id, ok := pathID(w, r)
	if !ok {
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, photoLimit))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a photo has at most %d bytes", tooLarge.Limit))
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body ended early")
		return
	}
	contentType := http.DetectContentType(content)
	extension, known := photoExtensions[contentType]
	if !known {
		refuse(w, http.StatusUnsupportedMediaType, "a photo is a JPEG, PNG or WebP file")
		return
	}
	photo := store.Photo{ResidenceID: id, Key: photoKey(id, extension), ContentType: contentType, Size: int64(len(content))}
	// Bytes first: a row without bytes would be a broken picture, bytes
	// without a row are only space.
	if err := a.Objects.Put(r.Context(), photo.Key, contentType, content); err != nil {
		fail(w, r, err)
		return
	}
	photo, err = a.Store.RecordPhoto(r.Context(), photo)
	if err != nil {
		fail(w, r, err)
		return
	}
	answer(w, http.StatusCreated, a.link(photo))
}

func photoKey(residenceID int64, extension string) string {
	var name [16]byte
	rand.Read(name[:]) // never fails
	return fmt.Sprintf("residences/%d/%s.%s", residenceID, hex.EncodeToString(name[:]), extension)
}

func (a *API) readUpload(w http.ResponseWriter, r *http.Request) {
	if err := signature.Verify(a.SigningKey, r.URL.Path, r.URL.Query(), a.Now()); err != nil {
		refuse(w, http.StatusForbidden, err.Error())
		return
	}
	content, err := a.Objects.Open(r.Context(), r.PathValue("key"))
	if err != nil {
		fail(w, r, err)
		return
	}
	defer content.Close()
	start := make([]byte, 512)
	read, err := io.ReadFull(content, start)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		fail(w, r, err)
		return
	}
	start = start[:read]
	w.Header().Set("Content-Type", http.DetectContentType(start))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "private, max-age=900")
	if _, err := w.Write(start); err == nil {
		_, err = io.Copy(w, content)
		if err != nil {
			slog.WarnContext(r.Context(), "an upload was not read to its end", "path", r.URL.Path, "error", err)
		}
	}
}
