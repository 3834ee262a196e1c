{{/* The name of everything; the longest suffix has ten characters, and a name at most 63. */}}
{{- define "segment-loops.name" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- default $name .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "segment-loops.selector" -}}
app.kubernetes.io/name: segment-loops
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "segment-loops.labels" -}}
{{ include "segment-loops.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "segment-loops.serviceAccount" -}}
{{- default (include "segment-loops.name" .) .Values.serviceAccount.existing -}}
{{- end }}

{{- define "segment-loops.secret" -}}
{{- default (include "segment-loops.name" .) .Values.secret.existing -}}
{{- end }}

{{/* The keys of the Secret, as JSON. */}}
{{- define "segment-loops.secretKeys" -}}
{{- ternary .Values.secret.keys (keys .Values.secret.values | sortAlpha) (ne .Values.secret.existing "") | toJson -}}
{{- end }}

{{- define "segment-loops.files" -}}
{{- if .Values.config }}
config.toml: |
{{ .Values.config | indent 2 }}
{{- end }}
{{- if .Values.subscriptions }}
subscriptions.toml: |
{{ .Values.subscriptions | indent 2 }}
{{- end }}
{{- with .Values.store.sqlite.litestream.config }}
litestream.yml: |
{{ . | indent 2 }}
{{- end }}
{{- end }}

{{/* Refuses values that contradict each other. */}}
{{- define "segment-loops.check" -}}
{{- $keys := include "segment-loops.secretKeys" . | fromJsonArray -}}
{{- if eq .Values.store.engine "sqlite" -}}
  {{- if gt (int (default 1 .Values.replicas)) 1 -}}
    {{- fail "replicas: with SQLite there can be only one; several need store.engine: postgres" -}}
  {{- end -}}
  {{- if has "DATABASE_URL" $keys -}}
    {{- fail "secret: DATABASE_URL is for store.engine: postgres" -}}
  {{- end -}}
{{- else if not (has "DATABASE_URL" $keys) -}}
  {{- fail "secret: store.engine: postgres needs DATABASE_URL, among the values or the keys" -}}
{{- end -}}
{{- with .Values.store.sqlite.litestream -}}
  {{- if and .image (ne $.Values.store.engine "sqlite") -}}
    {{- fail "store.sqlite.litestream: it copies SQLite databases; PostgreSQL has tools of its own" -}}
  {{- end -}}
  {{- if ne (not .image) (not .config) -}}
    {{- fail "store.sqlite.litestream: it needs an image and a configuration" -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.secret.existing .Values.secret.values -}}
  {{- fail "secret: give either the name of an existing one, or values" -}}
{{- end -}}
{{- if not (or .Values.secret.existing .Values.secret.values) -}}
  {{- fail "secret: give the name of an existing one, or values" -}}
{{- end -}}
{{- end }}
